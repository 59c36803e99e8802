"""What the doctor finds, as values."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: its name, whether it is well, and a sentence."""

    name: str
    well: bool
    says: str


@dataclass(frozen=True, slots=True)
class Report:
    """What the doctor found.

    Attributes:
        findings: What was looked at.
        settings: Every setting by its variable, secrets masked.
        changed: The variables that differ from their defaults.
    """

    findings: list[Finding]
    settings: dict[str, str]
    changed: list[str]

    @property
    def well(self) -> bool:
        """Whether all is."""
        return all(finding.well for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"well": self.well} | asdict(self)
