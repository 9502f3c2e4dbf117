"""Rules, corrections, class balance and the gate."""
