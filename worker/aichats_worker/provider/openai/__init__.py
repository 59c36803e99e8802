"""Knows the OpenAI-compatible HTTP API: vLLM, Ollama, llama.cpp, LiteLLM, OpenRouter, Azure and the like."""

from aichats_worker.provider.openai.site import OpenAI

__all__ = ["OpenAI"]
