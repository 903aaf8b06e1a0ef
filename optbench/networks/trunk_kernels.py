"""The convolutional trunk act(max_pool(conv2(act(conv1(images))))) of a stack as Triton kernels.

In float32 the planes of an image's 16 and 32 channels have 117 KB; the image, its pooled output and the winners of
the pooling windows have 26 KB. A step would spend its time writing the planes to memory and reading them again, so
here they stay in registers: the backward pass computes conv1 once more.

Every kernel looks at a pooling window through the 4×4 positions of conv1 that it sees. The channels at each of these
are computed once and enter up to four of the window's conv2 sums through the taps that lead there: 36 products of
small matrices. The gradient is linear in what each window hands back, so the backward kernels walk the same positions
of the same windows and nothing passes between windows. This computes conv1 3.4 times over, an eighth of conv2's
arithmetic, but needs none of the borders and memory that programs would have to share if they kept its plane.

Tiles have the windows last: neighbouring windows are neighbours in memory.

Shape suffixes: T trials, S distinct seeds among them, B batch, H W image or pooled output; and within a program
C the channels of conv1, D the channels of conv2, N the pooling windows of one tile, K the pixels that conv1 sees at one
position, 9, padded to 16; I chunks of images, P what one chunk adds to the gradient of a trial.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from optbench.machine.launch import launch

_SIDE: tl.constexpr = tl.constexpr(28)  # of an image
_POOLED: tl.constexpr = tl.constexpr(12)  # side of the pooled output
_WINDOWS: tl.constexpr = tl.constexpr(144)  # of one image and channel
_C: tl.constexpr = tl.constexpr(16)
_D: tl.constexpr = tl.constexpr(32)
_K: tl.constexpr = tl.constexpr(16)
_W2: tl.constexpr = tl.constexpr(9 * 32 * 16)  # numbers in one trial's conv2.weight
_P: tl.constexpr = tl.constexpr(9 * 32 * 16 + 32 + 10 * 16)  # those, conv2.bias, conv1.weight by tap, conv1.bias

_INTERPRETED: tl.constexpr = tl.constexpr(triton.knobs.runtime.interpret)

# Windows of a tile and warps of a program, by precision. Not timed, but chosen by what the compiler reports for compute
# capability 9.0: the largest tiles that spill at most 0.2 KB of registers a thread; larger ones spill up to 20 KB.
# BACKWARD1 in ieee, which has no tensor cores, spills 1.2 KB at best. N divides the windows of a chunk.
FORWARD = {
    "ieee": {"N": 16, "num_warps": 4},
    "tf32": {"N": 64, "num_warps": 4},
    "bf16": {"N": 64, "num_warps": 4},
}
BACKWARD2 = {
    "ieee": {"N": 16, "num_warps": 8},
    "tf32": {"N": 32, "num_warps": 2},
    "bf16": {"N": 32, "num_warps": 2},
}
BACKWARD1 = {
    "ieee": {"N": 16, "num_warps": 8},
    "tf32": {"N": 32, "num_warps": 4},
    "bf16": {"N": 32, "num_warps": 4},
}
# How many images one program adds up the gradients of. Its sums, 19 KB, are then a tenth of the 200 KB that it reads;
# and since the number does not depend on the stack, a trial's gradient is bitwise the same in every stack.
CHUNK = 8

# The names of a sweep → those of tl.dot; bf16 rounds the operands and, like the others, sums in float32.
_PRECISIONS = {"fp32": "ieee", "tf32": "tf32", "bf16": "bf16"}


@triton.jit
def _through(value, x, slope: tl.constexpr):
    """`value` where x is above zero (or NaN), else slope · value: act(x) for value = x, otherwise act's gradient."""
    below = 0.0 if slope == 0 else slope * value  # 0 · ∞ is NaN, which relu must not make
    return tl.where(x <= 0, below, value)


@triton.jit
def _dot(a, b, accumulator, precision: tl.constexpr):
    """a b + accumulator."""
    if precision == "bf16":
        a, b = a.to(tl.bfloat16), b.to(tl.bfloat16)
        if _INTERPRETED:  # Triton's interpreter would multiply the bits of bfloat16 as integers
            a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, accumulator, input_precision="ieee" if precision == "bf16" else precision)


@triton.jit
def _add_dot(sums, index: tl.constexpr, a, b, precision: tl.constexpr):
    """The tuple of sums with the product a b added to one of them."""
    return sums[:index] + (_dot(a, b, sums[index], precision),) + sums[index + 1 :]


@triton.constexpr_function
def _tap(row, column, member):
    """The tap of conv2 through which a window's position of conv1 enters the sum of a member; -1: it does not."""
    y, x = row - member // 2, column - member % 2
    return 3 * y + x if 0 <= y <= 2 and 0 <= x <= 2 else -1


@triton.jit
def _windows(tile, batch, N: tl.constexpr):
    """Which windows of a tile exist, the offset of their first pixel, and of their place in channel 0, (N,) each."""
    n = tile * N + tl.arange(0, N)
    b, window = n // _WINDOWS, n % _WINDOWS
    pixel = b * (_SIDE * _SIDE) + window // _POOLED * (2 * _SIDE) + window % _POOLED * 2
    return n < batch * _WINDOWS, pixel, b * (_D * _WINDOWS) + window


@triton.jit
def _pixels(first_N, there_N):
    """The 6×6 pixels that each window sees, 36 times (1, N)."""
    pixels = ()
    for i in tl.static_range(36):
        pixel_N = tl.load(first_N + (i // 6 * _SIDE + i % 6), mask=there_N, other=0.0)
        pixels = pixels + (pixel_N[None, :],)
    return pixels


@triton.jit
def _weights1(w1_CK, b1_C):
    """conv1's weights by tap and then its bias, ten times (C, 1)."""
    c = tl.arange(0, _C)
    weights = ()
    for tap in tl.static_range(9):
        weights = weights + (tl.load(w1_CK + c * 9 + tap)[:, None],)
    return weights + (tl.load(b1_C + c)[:, None],)


@triton.jit
def _conv1(pixels, weights, row: tl.constexpr, column: tl.constexpr):
    """conv1 before its activation at (row, column) of the 4×4 positions that each window sees, (C, N)."""
    x_CN = weights[0] * pixels[6 * row + column] + weights[9]
    for tap in tl.static_range(1, 9):
        x_CN += weights[tap] * pixels[6 * (row + tap // 3) + column + tap % 3]
    return x_CN


@triton.jit
def _forward(
    images_SBHW, seed_of_T, w1_TCK, b1_TC, w2_TKDC, b2_TD, output_TBDHW, code_TBDHW, batch,
    slope: tl.constexpr, precision: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Pooled output of one tile of windows of one trial; and its code, winner + 4 · (output is not above zero)."""
    trial = tl.program_id(1).to(tl.int64)
    images = images_SBHW + tl.load(seed_of_T + trial) * batch * (_SIDE * _SIDE)
    there_N, first_N, place_N = _windows(tl.program_id(0), batch, N)
    weights = _weights1(w1_TCK + trial * (9 * _C), b1_TC + trial * _C)
    pixels = _pixels(images + first_N, there_N)
    d = tl.arange(0, _D)[:, None]
    w2_DC = w2_TKDC + trial * _W2 + d * _C + tl.arange(0, _C)[None, :]

    zero_DN = tl.zeros([_D, N], tl.float32)
    sums = (zero_DN, zero_DN, zero_DN, zero_DN)  # of the window's members, row by row
    for row in tl.static_range(4):
        for column in tl.static_range(4):
            x_CN = _conv1(pixels, weights, row, column)
            x_CN = _through(x_CN, x_CN, slope)
            for member in tl.static_range(4):
                if _tap(row, column, member) >= 0:
                    weight_DC = tl.load(w2_DC + _tap(row, column, member) * (_D * _C))
                    sums = _add_dot(sums, member, weight_DC, x_CN, precision)

    best_DN = sums[0]
    code_DN = tl.zeros([_D, N], tl.int32)
    for member in tl.static_range(1, 4):
        x_DN = sums[member]
        wins_DN = (x_DN > best_DN) | (x_DN != x_DN)  # as torch: the first of equals, the last NaN
        best_DN = tl.where(wins_DN, x_DN, best_DN)
        code_DN = tl.where(wins_DN, member, code_DN)
    best_DN += tl.load(b2_TD + trial * _D + d)
    code_DN += tl.where(best_DN <= 0, 4, 0)
    place_DN = trial * batch * (_D * _WINDOWS) + place_N[None, :] + d * _WINDOWS
    tl.store(output_TBDHW + place_DN, _through(best_DN, best_DN, slope), mask=there_N[None, :])
    tl.store(code_TBDHW + place_DN, code_DN.to(tl.uint8), mask=there_N[None, :])


@triton.jit
def _grad(grad_BDHW, code_BDHW, place_N, there_N, slope: tl.constexpr):
    """The gradient before the activation, and the code, (D, N) each."""
    place_DN = place_N[None, :] + tl.arange(0, _D)[:, None] * _WINDOWS
    code_DN = tl.load(code_BDHW + place_DN, mask=there_N[None, :], other=0).to(tl.int32)
    grad_DN = tl.load(grad_BDHW + place_DN, mask=there_N[None, :], other=0.0)
    return _through(grad_DN, tl.where(code_DN < 4, 1, 0), slope), code_DN


@triton.jit
def _backward2(
    images_SBHW, seed_of_T, w1_TCK, b1_TC, code_TBDHW, grad_TBDHW, partial_TIP, batch,
    slope: tl.constexpr, precision: tl.constexpr, N: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """What one chunk of windows, `TILES` tiles, adds to the gradients of a trial's conv2, in a place of its own.

    conv1 is a matrix product here: products over the windows need them in other registers than `_conv1` does, and as
    operands all pixels of a tile would take hundreds of registers of every thread.
    """
    trial = tl.program_id(1).to(tl.int64)
    images = images_SBHW + tl.load(seed_of_T + trial) * batch * (_SIDE * _SIDE)
    start = trial * batch * (_D * _WINDOWS)
    k = tl.arange(0, _K)
    w1_CK = w1_TCK + trial * (9 * _C) + tl.arange(0, _C)[:, None] * 9 + k[None, :]
    w1_CK = tl.load(w1_CK, mask=k[None, :] < 9, other=0.0)
    b1_CN = tl.load(b1_TC + trial * _C + tl.arange(0, _C))[:, None] + tl.zeros([_C, N], tl.float32)

    zero_DC = tl.zeros([_D, _C], tl.float32)
    w_grads = (zero_DC, zero_DC, zero_DC, zero_DC, zero_DC, zero_DC, zero_DC, zero_DC, zero_DC)  # by tap
    b_grad_DN = tl.zeros([_D, N], tl.float32)
    first = tl.program_id(0) * TILES
    for tile in range(first, min(first + TILES, tl.cdiv(batch * _WINDOWS, N))):
        there_N, first_N, place_N = _windows(tile, batch, N)
        pixels_KN = images + first_N[None, :] + (k // 3 * _SIDE + k % 3)[:, None]
        seen_KN = there_N[None, :] & (k[:, None] < 9)
        grad_DN, code_DN = _grad(grad_TBDHW + start, code_TBDHW + start, place_N, there_N, slope)
        b_grad_DN += grad_DN
        for row in tl.static_range(4):
            for column in tl.static_range(4):
                patch_KN = tl.load(pixels_KN + (row * _SIDE + column), mask=seen_KN, other=0.0)
                x_CN = _dot(w1_CK, patch_KN, b1_CN, precision)
                x_NC = tl.trans(_through(x_CN, x_CN, slope))
                for member in tl.static_range(4):
                    if _tap(row, column, member) >= 0:
                        won_DN = tl.where(code_DN % 4 == member, grad_DN, 0.0)
                        w_grads = _add_dot(w_grads, _tap(row, column, member), won_DN, x_NC, precision)

    partial = partial_TIP + (trial * tl.num_programs(0) + tl.program_id(0)) * _P
    d = tl.arange(0, _D)
    for tap in tl.static_range(9):
        tl.store(partial + tap * (_D * _C) + d[:, None] * _C + tl.arange(0, _C)[None, :], w_grads[tap])
    tl.store(partial + _W2 + d, tl.sum(b_grad_DN, axis=1))


@triton.jit
def _add_conv1(grads, x_grad_CN, pixels, row: tl.constexpr, column: tl.constexpr):
    """The gradients of conv1's weights, in the order of `_weights1`, with one position added, still by window."""
    added = ()
    for tap in tl.static_range(9):
        added = added + (grads[tap] + x_grad_CN * pixels[6 * (row + tap // 3) + column + tap % 3],)
    return added + (grads[9] + x_grad_CN,)


@triton.jit
def _backward1(
    images_SBHW, seed_of_T, w1_TCK, b1_TC, w2_TKDC, code_TBDHW, grad_TBDHW, partial_TIP, batch,
    slope: tl.constexpr, precision: tl.constexpr, N: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """What one chunk of windows, `TILES` tiles, adds to the gradients of a trial's conv1, in a place of its own."""
    trial = tl.program_id(1).to(tl.int64)
    images = images_SBHW + tl.load(seed_of_T + trial) * batch * (_SIDE * _SIDE)
    start = trial * batch * (_D * _WINDOWS)
    weights = _weights1(w1_TCK + trial * (9 * _C), b1_TC + trial * _C)
    c = tl.arange(0, _C)
    w2_CD = w2_TKDC + trial * _W2 + c[:, None] + tl.arange(0, _D)[None, :] * _C

    zero_CN = tl.zeros([_C, N], tl.float32)
    grads = (zero_CN, zero_CN, zero_CN, zero_CN, zero_CN, zero_CN, zero_CN, zero_CN, zero_CN, zero_CN)  # as weights
    first = tl.program_id(0) * TILES
    for tile in range(first, min(first + TILES, tl.cdiv(batch * _WINDOWS, N))):
        there_N, first_N, place_N = _windows(tile, batch, N)
        pixels = _pixels(images + first_N, there_N)
        grad_DN, code_DN = _grad(grad_TBDHW + start, code_TBDHW + start, place_N, there_N, slope)
        for row in tl.static_range(4):
            for column in tl.static_range(4):
                x_grad_CN = tl.zeros([_C, N], tl.float32)  # as far as it comes from these windows
                for member in tl.static_range(4):
                    if _tap(row, column, member) >= 0:
                        won_DN = tl.where(code_DN % 4 == member, grad_DN, 0.0)
                        # In the layout of scalar products not all weights fit in registers: volatile ones are read
                        # where they are needed, instead of once before the loop.
                        weight_CD = tl.load(w2_CD + _tap(row, column, member) * (_D * _C), volatile=precision == "ieee")
                        x_grad_CN = _dot(weight_CD, won_DN, x_grad_CN, precision)
                x_grad_CN = _through(x_grad_CN, _conv1(pixels, weights, row, column), slope)
                grads = _add_conv1(grads, x_grad_CN, pixels, row, column)

    partial = partial_TIP + (trial * tl.num_programs(0) + tl.program_id(0)) * _P + _W2 + _D
    for i in tl.static_range(10):
        tl.store(partial + i * _C + c, tl.sum(grads[i], axis=1))


@triton.jit
def _add_chunks(partial_TIP, sum_TP, chunks, BLOCK: tl.constexpr):
    """The sum over chunks, one after the other; torch would choose the order by the size of the stack."""
    trial = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for chunk in range(chunks):
        total += tl.load(partial_TIP + (trial * chunks + chunk) * _P + p, mask=p < _P, other=0.0)
    tl.store(sum_TP + trial * _P + p, total, mask=p < _P)


class _Trunk(torch.autograd.Function):
    """`trunk` with its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        images_SBHW: Tensor,
        seed_of_T: Tensor,
        slope: float,
        precision: str,
        w1: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor,
    ) -> Tensor:
        trials, batch = len(seed_of_T), images_SBHW.shape[1]
        # Each tap's matrix contiguous: in `w2` its elements are nine apart.
        w2_TKDC = w2.permute(0, 3, 4, 1, 2).contiguous()
        images_SBHW, seed_of_T, w1, b1, b2 = (x.contiguous() for x in (images_SBHW, seed_of_T, w1, b1, b2))
        output_TBDHW = images_SBHW.new_empty(trials, batch, 32, 12, 12)
        code_TBDHW = torch.empty_like(output_TBDHW, dtype=torch.uint8)
        grid = (triton.cdiv(batch * 144, FORWARD[precision]["N"]), trials)
        launch(
            _forward, grid, images_SBHW, seed_of_T, w1, b1, w2_TKDC, b2, output_TBDHW, code_TBDHW, batch,
            slope=slope, precision=precision, **FORWARD[precision],
        )  # fmt: skip
        ctx.save_for_backward(images_SBHW, seed_of_T, w1, b1, w2_TKDC, code_TBDHW)
        ctx.constants = {"slope": slope, "precision": precision}
        return output_TBDHW

    @staticmethod
    def backward(ctx: Any, grad_TBDHW: Tensor) -> tuple[Tensor | None, ...]:
        images_SBHW, seed_of_T, w1, b1, w2_TKDC, code_TBDHW = ctx.saved_tensors
        grad_TBDHW = grad_TBDHW.contiguous()
        trials, batch = code_TBDHW.shape[:2]
        precision = ctx.constants["precision"]
        chunks = triton.cdiv(batch, CHUNK)
        partial_TIP = grad_TBDHW.new_empty(trials, chunks, _P.value)
        sum_TP = grad_TBDHW.new_empty(trials, _P.value)
        block = 512
        inputs = (images_SBHW, seed_of_T, w1, b1)
        outputs = (code_TBDHW, grad_TBDHW, partial_TIP, batch)
        for kernel, arguments, config in (
            (_backward2, (*inputs, *outputs), BACKWARD2[precision]),
            (_backward1, (*inputs, w2_TKDC, *outputs), BACKWARD1[precision]),
        ):
            tiles = CHUNK * 144 // config["N"]
            launch(kernel, (chunks, trials), *arguments, **ctx.constants, TILES=tiles, **config)
        launch(_add_chunks, (triton.cdiv(_P.value, block), trials), partial_TIP, sum_TP, chunks, BLOCK=block)
        w2, b2, w1, b1 = sum_TP.split([_W2.value, 32, 9 * 16, 16], dim=1)
        w2 = w2.view(trials, 3, 3, 32, 16).permute(0, 3, 4, 1, 2)
        w1 = w1.view(trials, 3, 3, 1, 16).permute(0, 4, 3, 1, 2)
        return None, None, None, None, w1, b1, w2, b2


def trunk(
    images_SBCHW: Tensor, seed_of_T: Tensor, w: dict[str, Tensor], slope: float, precision: str = "fp32"
) -> Tensor:
    """act(max_pool(conv2(act(conv1(images))))) of T trials, (T, B, 32, 12, 12), differentiable by the weights.

    `images_SBCHW` (S, B, 1, 28, 28) and the weights in `w`, conv1.weight (T, 16, 1, 3, 3) to conv2.bias (T, 32), are
    float32; trial t sees the batch `seed_of_T[t]`, an int64 index. The activation keeps what is above zero and
    multiplies the rest by `slope`: 0 for relu. `precision` is that of the operands of matrix products: fp32, tf32
    or bf16; sums are float32, as is conv1 wherever its sign matters.
    """
    names = ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias")
    weights = [w[name] for name in names]
    output: Tensor = _Trunk.apply(images_SBCHW.squeeze(2), seed_of_T, slope, _PRECISIONS[precision], *weights)
    return output
