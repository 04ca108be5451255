"""Which of the processor's instructions faiss uses here."""

import faiss

WIDE = ("AVX2", "AVX512", "ARM_NEON", "ARM_SVE", "RISCV_RVV")


def instructions() -> tuple[str, bool]:
    """Return their name as faiss has it, such as AVX512_SPR, and whether they compare many numbers at once."""
    name = str(faiss.SIMDConfig.get_level_name())
    return name, name.startswith(WIDE)
