"""Networks of the bearing operator: Fourier blocks for the drive, learned modes of the casing, an order analysis."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PADDING = 32  # zero blocks after a window, because it is not periodic: long enough for the drive to forget
BANDS = 64  # of the log power spectrum
DECIMATION = 4  # samples averaged into one point of an envelope
ORDERS = 96  # of the envelope's spectrum
LOWEST, HIGHEST = 0.3, 11.7  # cycles per turn of the shaft: up to twice the inner race's order


class Spectral(nn.Module):
    """Multiplication of the lowest `modes` frequencies of (B, length, width) by learned matrices, for any length.

    The complex weights are stored as pairs of real numbers, so that optimizers, averaging over ranks and stacking see
    real parameters.
    Source: Li et al., arXiv:2010.08895, eq. 4.
    """

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        self.weight = nn.Parameter(torch.randn(modes, width, width, 2) * (0.1 / width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, length, width) to the same shape, in float32."""
        with torch.autocast(x.device.type, enabled=False):
            spectrum = torch.fft.rfft(x.float(), dim=1, norm="forward")[:, : self.modes]
            mixed = torch.einsum("bmi,mio->bmo", spectrum, torch.view_as_complex(self.weight))
            return torch.fft.irfft(mixed, n=x.shape[1], dim=1, norm="forward")


class FourierBlock(nn.Module):
    """Residual block: x + GELU(spectral(x) + point(x)), without the activation if `linear`."""

    def __init__(self, width: int, modes: int, *, linear: bool) -> None:
        super().__init__()
        self.spectral, self.point = Spectral(width, modes), nn.Linear(width, width)
        self.activation = nn.Identity() if linear else nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, length, width) to the same shape."""
        return x + self.activation(self.spectral(x) + self.point(x))


class Heads(nn.Module):
    """Rates and log variances of three states for each block.

    No gradient flows from the log variances to the layers below: they learn without changing the means.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, 3))
        self.straight = nn.Linear(width, 3)
        self.spread = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 3))

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return rates and log variances, (B, blocks, 3) each, of hidden features (B, blocks, width)."""
        return self.mean(hidden) + self.straight(hidden), self.spread(hidden.detach())


class Modes(nn.Module):
    """The response of a casing as a sum of `modes` damped oscillations with learned poles and residues.

    A network maps the casing's frequency and damping to the poles and residues. x is the convolution of the force with
    their impulse response, plus a free oscillation that starts from the given state at the first sample. Before
    training, the first mode is near the casing's resonance; only this mode has the free oscillation. The other modes
    may have any frequency. One mode can represent the exact response. `rate` is the sampling rate in Hz. The
    convolution is by FFT. Source: Gu et al., arXiv:2206.11893 (diagonal state spaces), modified as described.
    """

    def __init__(self, modes: int, width: int, rate: int) -> None:
        super().__init__()
        self.modes, self.rate = modes, rate
        self.net = nn.Sequential(
            nn.Linear(2, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 4 * modes + 2)
        )
        self.spread = nn.Sequential(nn.Linear(2, width), nn.GELU(), nn.Linear(width, 1))

    def forward(self, force: Tensor, start: Tensor, frequency: Tensor, damping: Tensor) -> tuple[Tensor, Tensor]:
        """Return x (B, samples + 1) and its log variance (B, 1).

        `force` (B, samples), `start` (B, 2): x and x'/W at the first sample, `frequency` (B,): W in rad/s, `damping`
        (B,): zeta.
        """
        with torch.autocast(force.device.type, enabled=False):
            turn = frequency / self.rate  # rad per sample
            properties = torch.stack([(turn / 1.5).log() * 3, (damping / 0.035).log()], dim=-1)
            output = self.net(properties)
            a, b, real, imaginary = output[:, : 4 * self.modes].unflatten(1, (4, self.modes)).unbind(dim=1)
            first = torch.arange(self.modes, device=force.device) == 0
            decay = torch.where(first, (damping * turn)[:, None], 0.3) * (0.3 * a).exp()
            angle = torch.where(first, turn[:, None] * (1 + 0.1 * b), math.pi * torch.sigmoid(b))
            steps = torch.arange(1, force.shape[1] + 1, device=force.device)
            fading = (-decay[..., None] * steps).exp()
            cosine, sine = fading * (angle[..., None] * steps).cos(), fading * (angle[..., None] * steps).sin()
            kernel = (real[..., None] * cosine + imaginary[..., None] * sine).sum(dim=1)
            x0, rate0 = start[:, :1], start[:, 1:]
            free = x0 * cosine[:, 0] + (output[:, -2:-1] * x0 + (1 + output[:, -1:]) * rate0) * sine[:, 0]
            return torch.cat([x0, free + convolve(kernel, force)], dim=1), self.spread(properties)


def convolve(kernel: Tensor, signal: Tensor) -> Tensor:
    """Return the causal convolution by FFT, (B, n): the sum over j <= k of kernel[k - j] signal[j], both (B, n)."""
    length = signal.shape[-1]
    spectrum = torch.fft.rfft(kernel, n=2 * length) * torch.fft.rfft(signal, n=2 * length)
    return torch.fft.irfft(spectrum, n=2 * length)[..., :length]


class OrderAnalysis(nn.Module):
    """Classifier of vibration: envelope spectra over the shaft's angle, the log power spectrum, and the level.

    The envelopes are the squared outputs of `filters` learned filters. In their spectra over the angle, a fault keeps
    its order when the speed changes. This is learned demodulation, compare Randall and Antoni, Mech. Syst. Signal
    Process. 25 (2011) 485. `classes` and `width` are the sizes of the classifier's output and hidden layers.
    """

    orders: Tensor  # (ORDERS,): cycles per turn of the shaft

    def __init__(self, classes: int, filters: int, width: int, dropout: float) -> None:
        super().__init__()
        self.filters = nn.Conv1d(1, filters, 31, padding=15, bias=False)
        self.register_buffer("orders", torch.linspace(LOWEST, HIGHEST, ORDERS), persistent=False)
        self.head = nn.Sequential(
            nn.Linear(filters * (ORDERS + 2) + BANDS + 1, width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, classes),
        )

    def forward(self, vibration: Tensor, angle: Tensor) -> Tensor:
        """Return the logits (B, classes) of `vibration` (B, samples) and the shaft's `angle` (B, samples) in rad."""
        level = vibration.square().mean(dim=-1, keepdim=True).clamp(min=1e-20).sqrt()
        filtered = self.filters((vibration / level)[:, None])
        with torch.autocast(vibration.device.type, enabled=False):
            bands = self.envelopes(filtered.float(), angle)
            return self.head(torch.cat([bands, spectrum(vibration), level.log()], dim=-1))

    def envelopes(self, filtered: Tensor, angle: Tensor) -> Tensor:
        """Return the log spectrum over orders, log energy and log contrast of each band, (B, filters * (ORDERS + 2)).

        `filtered` (B, filters, samples), `angle` (B, samples) in rad.
        """
        energy = F.avg_pool1d(filtered.square(), DECIMATION)
        mean = energy.mean(dim=-1, keepdim=True) + 1e-6
        varying = energy / mean - 1
        phase = angle[:, DECIMATION // 2 :: DECIMATION, None] * self.orders  # (B, points, ORDERS)
        window = torch.hann_window(energy.shape[-1], device=angle.device) * 2 / energy.shape[-1]
        windowed = varying * window
        power = (windowed @ phase.cos()).square() + (windowed @ phase.sin()).square()
        contrast = varying.square().mean(dim=-1, keepdim=True)
        return torch.cat([0.5 * (power + 1e-4).log() + 2, mean.log() + 2, (contrast + 1e-3).log()], dim=-1).flatten(1)


def spectrum(vibration: Tensor) -> Tensor:
    """Return the log power of `vibration` (B, samples) in equal bands up to half the sampling rate, (B, BANDS)."""
    window = torch.hann_window(vibration.shape[-1], device=vibration.device)
    power = torch.fft.rfft(vibration * window)[..., 1:].abs().square() / vibration.shape[-1]
    return (F.adaptive_avg_pool1d(power[:, None], BANDS)[:, 0] + 1e-8).log()
