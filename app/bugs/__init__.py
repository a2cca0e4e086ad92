"""The bug tracker: what is wrong with hardware, firmware, software or product, who knows, and what became of it."""
