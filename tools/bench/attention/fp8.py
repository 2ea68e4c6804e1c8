"""Per-tensor casts to E4M3 as a user of an FP8 attention kernel would write them: amax, scale, cast.

Fused by torch.compile where that works, so that a peer is not charged for the passes of eager mode.
"""
import torch

E4M3_MAX = 448.0


def _cast(x):
    amax = x.abs().amax().float().clamp(min=1e-12)
    scaled = (x.float() * (E4M3_MAX / amax)).clamp(-E4M3_MAX, E4M3_MAX)
    return scaled.to(torch.float8_e4m3fn), amax / E4M3_MAX


def _widen(x, factor):
    return (x.float() * factor).to(torch.bfloat16)


class Casts:
    """cast(x) -> (e4m3 tensor, descale); widen(e4m3 tensor, factor) -> BF16. `how` says what runs."""

    def __init__(self, sample):
        self._cast, self._widen, self.how = _cast, _widen, "casts in eager PyTorch"
        try:
            cast, widen = torch.compile(_cast, dynamic=True), torch.compile(_widen, dynamic=True)
            half = sample[:, :, : sample.shape[2] // 2].contiguous()
            for part in (sample, half):   # of the second size, so that later ones compile nothing
                codes, descale = cast(part.reshape(-1))
                widen(codes, descale)
            self._cast, self._widen, self.how = cast, widen, "casts fused by torch.compile"
        except Exception as error:
            self.how += f" (torch.compile: {type(error).__name__})"

    def cast(self, x):
        codes, descale = self._cast(x.reshape(-1))
        return codes.view(x.shape), descale

    def widen(self, codes, factor):
        return self._widen(codes.reshape(-1), factor).view(codes.shape)
