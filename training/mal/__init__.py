"""MAL: masks learnt from boxes alone, by a student and its moving average."""
