"""Tests of the Helm chart, and the files of it that are written from others."""
