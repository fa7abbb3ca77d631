"""Let an agent spend USDC within a mandate that a person approved."""

from .client import AsyncStipend, Stipend
from .errors import InvalidInput, Refused, StipendError, Unknown, Unreachable
from .models import AuditEntry, Card, CardSecrets, Explanation, Mandate, MandateRequest, Page, Payment

__all__ = [
    "AsyncStipend",
    "AuditEntry",
    "Card",
    "CardSecrets",
    "Explanation",
    "InvalidInput",
    "Mandate",
    "MandateRequest",
    "Page",
    "Payment",
    "Refused",
    "Stipend",
    "StipendError",
    "Unknown",
    "Unreachable",
]
