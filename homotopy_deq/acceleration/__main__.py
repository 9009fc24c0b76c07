"""Measure what the kernels cost on this machine anew: `python -m homotopy_deq.acceleration`."""

from .calibration import calibrate

if __name__ == "__main__":
    print(f"Written to {calibrate()}")
