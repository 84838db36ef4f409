# SPDX-License-Identifier: Apache-2.0
"""A naive TubeViT in loops: what every number of the model is held against.

Written from the paper and from the meaning of the config's fields, in the most literal way: a token is found by
counting where its kernel lands, a masked token is left out of the sequence, attention is computed query by query. It
takes a plain `dict` for the config and a state dict for the weights, so that it shares no line with the package. It is
slow, and meant for float64 and clips of a few tokens. Gradients flow through it.
"""

import itertools
import math
from typing import NamedTuple

import torch


class NaiveOutput(NamedTuple):
    """What the oracle returns. Tokens that a `frame_mask` leaves out hold NaN: what they are is nobody's business."""

    embedding_output: torch.Tensor  # (batch, tokens, hidden_size), no token left out
    hidden_states: tuple[torch.Tensor, ...]  # embedding output, then one a layer: (batch, tokens, hidden_size)
    last_hidden_state: torch.Tensor  # (batch, tokens, hidden_size)
    pooler_output: torch.Tensor  # (batch, hidden_size)
    logits: torch.Tensor | None  # (batch, num_labels), None without a classifier
    valid: torch.Tensor  # (batch, tokens), bool


def naive_forward(state, config, pixel_values, frame_mask=None) -> NaiveOutput:
    """All of the model without a `joint_layer`, for `pixel_values` `(batch, frames, channels, height, width)`.

    `state` is a `model.state_dict()`, of a classifier or of a bare model; `config` a `config.to_dict()`.
    """
    state = {name.removeprefix("tubevit."): tensor for name, tensor in state.items()}
    clips = []
    for index, clip in enumerate(pixel_values):
        real = [True] * len(clip) if frame_mask is None else frame_mask[index].tolist()
        clips.append(_encode_clip(state, config, clip, real))
    embedding_output, hidden_states, last_hidden_state, pooler_output, valid = zip(*clips)
    pooler_output = torch.stack(pooler_output)
    logits = None
    if "classifier.weight" in state:
        logits = torch.stack([linear(row, state, "classifier") for row in pooler_output])
    return NaiveOutput(
        torch.stack(embedding_output),
        tuple(torch.stack(of_layer) for of_layer in zip(*hidden_states)),
        torch.stack(last_hidden_state),
        pooler_output,
        logits,
        torch.stack(valid),
    )


def read_tube(tube, hidden_size):
    """`(kernel_size, stride, offset, space_to_depth, out_channels)` with the defaults filled in."""

    def triple(value):
        return tuple(value) if isinstance(value, (list, tuple)) else (value,) * 3

    kernel, stride = triple(tube["kernel_size"]), triple(tube["stride"])
    offset, factors = triple(tube.get("offset", 0)), triple(tube.get("space_to_depth", 1))
    return kernel, stride, offset, factors, tube.get("out_channels") or hidden_size // math.prod(factors)


def kernel_starts(tube, axis, length):
    """For each token along an axis, where its kernel applications start: a list of lists."""
    kernel, stride, offset, factors, _ = tube
    tokens = []
    for index in itertools.count():
        first = offset[axis] + index * stride[axis]
        starts = [first + neighbour * (stride[axis] // factors[axis]) for neighbour in range(factors[axis])]
        if max(start + kernel[axis] for start in starts) > length:
            return tokens
        tokens.append(starts)


def seen(tube, axis, starts):
    """Frames, rows or columns from the first to the last that a token touches, those in gaps included."""
    kernel = tube[0][axis]
    touched = [start + step for start in starts for step in range(kernel)]
    return range(min(touched), max(touched) + 1)


def center(tube, axis, starts):
    """A pixel is a box from its index to its index + 1: the centre of a 16-pixel patch at the origin is 8."""
    region = seen(tube, axis, starts)
    return (region[0] + region[-1] + 1) / 2


def tokens_of(tube, size):
    """The tube's tokens in raster order, each as `(grid index, kernel starts)`, both triples."""
    axes = [list(enumerate(kernel_starts(tube, axis, length))) for axis, length in enumerate(size)]
    tokens = []
    for time in axes[0]:
        for row in axes[1]:
            for column in axes[2]:
                index, starts = zip(time, row, column)
                tokens.append((index, starts))
    return tokens


def sincos(t, y, x, dim):
    """Equations 3 to 7, with the usual Transformer spacing of the frequencies."""
    z = [0.0] * dim
    for j in range(dim // 6):
        omega = 1 / 10_000 ** (j / (dim // 6))
        z[6 * j + 0] += math.sin(t * omega)
        z[6 * j + 1] += math.cos(t * omega)
        z[6 * j + 2] += math.sin(x * omega)
        z[6 * j + 3] += math.cos(x * omega)
        z[6 * j + 4] += math.sin(y * omega)
        z[6 * j + 5] += math.cos(y * omega)
    return torch.tensor(z, dtype=torch.float64)


def sincos_time(t, dim):
    """Of a time in frames, over all channels."""
    z = [0.0] * dim
    for j in range(dim // 2):
        angle = t / 10_000 ** (j / (dim // 2))
        z[2 * j], z[2 * j + 1] = math.sin(angle), math.cos(angle)
    return torch.tensor(z, dtype=torch.float64)


def trilinear(kernel, size):
    """`(out, channels, t, h, w)` at another size, align_corners=False: eight corners, each with its weight."""

    def corners(axis, position):
        length = kernel.shape[2 + axis]
        source = max((position + 0.5) * length / size[axis] - 0.5, 0.0)
        low = math.floor(source)
        return (low, 1 - (source - low)), (min(low + 1, length - 1), source - low)

    rows = []
    for t, y, x in itertools.product(*map(range, size)):
        value = torch.zeros_like(kernel[:, :, 0, 0, 0])
        for (i, wi), (j, wj), (k, wk) in itertools.product(corners(0, t), corners(1, y), corners(2, x)):
            value = value + wi * wj * wk * kernel[:, :, i, j, k]
        rows.append(value)
    return torch.stack(rows, dim=-1).reshape(*kernel.shape[:2], *size)


def bicubic(table, size, row, column):
    """One entry of `(h, w, channels)` brought to `size`: Keys' kernel with a = -0.75, the border repeated."""

    def weight(distance, a=-0.75):
        distance = abs(distance)
        if distance <= 1:
            return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
        return a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a if distance < 2 else 0.0

    def taps(position, length, new_length):
        source = (position + 0.5) * length / new_length - 0.5
        near = math.floor(source)
        return [(min(max(tap, 0), length - 1), weight(source - tap)) for tap in range(near - 1, near + 3)]

    value = torch.zeros_like(table[0, 0])
    for i, wi in taps(row, table.shape[0], size[0]):
        for j, wj in taps(column, table.shape[1], size[1]):
            value = value + wi * wj * table[i, j]
    return value


def position(state, config, tube_index, tube, token, grid):
    """What is added to one token for its position."""
    index, starts = token
    kind, dim = config["position_embedding_type"], config["hidden_size"]
    if kind == "none":
        return torch.zeros(dim, dtype=torch.float64)
    if kind == "learned":
        table = state[f"embeddings.position_embeddings.{tube_index}"][0]  # (t, h, w, hidden_size)
        return bicubic(table[min(index[0], len(table) - 1)], grid[1:], *index[1:])
    if kind == "pretrained" and tube[0][0] == 1:
        table = state[f"embeddings.position_embeddings.{tube_index}"][0]  # (h, w, hidden_size)
        return bicubic(table, grid[1:], *index[1:])
    if kind == "spatial":
        table = state[f"embeddings.position_embeddings.{tube_index}"][0]  # (h, w, hidden_size)
        times = sincos_time(center(tube, 0, starts[0]), dim)
        return bicubic(table, grid[1:], *index[1:]) + config["position_embedding_scale"] * times
    if kind == "tube_index":
        t, y, x = index
    else:
        t, y, x = (center(tube, axis, starts[axis]) for axis in range(3))
    return config["position_embedding_scale"] * sincos(t, y, x, dim)


def embed_tube(state, config, tube_index, clip):
    """One tube's tokens `(hidden_size,)` and, for each, the frames that it sees."""
    tube = read_tube(config["tubes"][tube_index], config["hidden_size"])
    (kernel_t, kernel_h, kernel_w), _, _, _, out_channels = tube
    frames, _, height, width = clip.shape
    tokens = tokens_of(tube, (frames, height, width))
    if not tokens:
        return [], []
    if config["tube_kernels"] == "interpolated":
        weight = trilinear(state["embeddings.base_kernel"][:out_channels], tube[0])
    else:
        weight = state[f"embeddings.tubes.{tube_index}.weight"]
    bias = state[f"embeddings.tubes.{tube_index}.bias"]
    grid = [count + 1 for count in tokens[-1][0]]

    embedded, frames_seen = [], []
    for token in tokens:
        _, (times, rows, columns) = token
        channels = []
        for t in times:
            for y in rows:
                for x in columns:
                    # (t, channels, h, w) -> (channels, t, h, w)
                    region = clip[t : t + kernel_t, :, y : y + kernel_h, x : x + kernel_w].transpose(0, 1)
                    for channel in range(out_channels):
                        channels.append((weight[channel] * region).sum() + bias[channel])
        embedding = torch.stack(channels)[: config["hidden_size"]]
        embedded.append(embedding + position(state, config, tube_index, tube, token, grid))
        frames_seen.append(seen(tube, 0, times))
    return embedded, frames_seen


def linear(x, state, name):
    product = state[f"{name}.weight"] @ x
    return product + state[f"{name}.bias"] if f"{name}.bias" in state else product


def layer_norm(x, state, name, eps):
    centered = x - x.sum() / len(x)
    variance = (centered**2).sum() / len(x)
    return state[f"{name}.weight"] * centered / (variance + eps) ** 0.5 + state[f"{name}.bias"]


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def attention(queries, tokens, state, name, num_heads):
    """Each of `queries` over all of `tokens`, both lists of `(hidden_size,)`."""
    keys = torch.stack([linear(token, state, f"{name}.k_proj") for token in tokens])
    values = torch.stack([linear(token, state, f"{name}.v_proj") for token in tokens])
    head_dim = len(tokens[0]) // num_heads
    outputs = []
    for query in queries:
        query = linear(query, state, f"{name}.q_proj")
        heads = []
        for head in range(num_heads):
            part = slice(head * head_dim, (head + 1) * head_dim)
            scores = keys[:, part] @ query[part] / math.sqrt(head_dim)
            weights = (scores - scores.max()).exp()
            heads.append((weights / weights.sum()) @ values[:, part])
        outputs.append(linear(torch.cat(heads), state, f"{name}.o_proj"))
    return outputs


def encode_layer(tokens, z0, state, config, index):
    """One pre-norm layer; the gated one adds `tanh(gate) * z0` after its MLP (Eq. 8)."""
    name, eps = f"layers.{index}", config["layer_norm_eps"]

    def scale(x, number):
        return x * state[f"{name}.layer_scale{number}.lambda1"] if config["use_layer_scale"] else x

    normed = [layer_norm(token, state, f"{name}.layernorm_before", eps) for token in tokens]
    attended = attention(normed, normed, state, f"{name}.attention", config["num_attention_heads"])
    tokens = [token + scale(update, 1) for token, update in zip(tokens, attended)]
    outputs = []
    for token, raw in zip(tokens, z0):
        hidden = gelu(linear(layer_norm(token, state, f"{name}.layernorm_after", eps), state, f"{name}.mlp.fc1"))
        output = token + scale(linear(hidden, state, f"{name}.mlp.fc2"), 2)
        if index == config["gate_layer"]:
            output = output + torch.tanh(state[f"{name}.gate"]) * raw
        outputs.append(output)
    return outputs


def _encode_clip(state, config, clip, real):
    """One clip: embedding output, hidden states, last hidden state, pooled, and which tokens count."""
    tokens, valid = [], []
    if config["use_cls_token"]:
        tokens.append(state["embeddings.cls_token"][0, 0])
    for register in range(config["num_register_tokens"]):
        tokens.append(state["embeddings.register_tokens"][0, register])
    num_prefix = len(tokens)
    valid += [True] * num_prefix
    for tube_index in range(len(config["tubes"])):
        embedded, frames_seen = embed_tube(state, config, tube_index, clip)
        tokens += embedded
        valid += [all(real[frame] for frame in frames) for frames in frames_seen]
    if config["use_pre_layernorm"]:
        tokens = [layer_norm(token, state, "embeddings.layernorm", config["layer_norm_eps"]) for token in tokens]

    def at_their_places(kept):
        # what is left out of the sequence shows as NaN
        kept = iter(kept)
        return torch.stack([next(kept) if counts else torch.full_like(tokens[0], math.nan) for counts in valid])

    z0 = [token for token, counts in zip(tokens, valid) if counts]
    states = [z0]
    for index in range(config["num_hidden_layers"]):
        states.append(encode_layer(states[-1], z0, state, config, index))
    last = [layer_norm(token, state, "layernorm", config["layer_norm_eps"]) for token in states[-1]]

    if config["pooling_type"] == "attention":
        query = state["pooler.query"][0, 0]
        pooled = attention([query], last, state, "pooler", config["num_attention_heads"])[0]
    elif config["pooling_type"] == "cls":
        pooled = last[0]
    elif config["pooling_type"] == "grid":
        places = [
            (read_tube(tube, config["hidden_size"]), index)
            for tube in config["tubes"]
            for index, _ in tokens_of(read_tube(tube, config["hidden_size"]), (clip.shape[0], *clip.shape[2:]))
        ]
        # of the tokens that count
        places = [place for place, counts in zip(places, valid[num_prefix:]) if counts]
        parts = []
        for number in config["pooling_layers"] or [config["num_hidden_layers"]]:
            vectors = [layer_norm(vector, state, "layernorm", config["layer_norm_eps"]) for vector in states[number]]
            of_tubes = [(*place, vector) for place, vector in zip(places, vectors[num_prefix:])]
            parts += grid_features(of_tubes, config)
        pooled = torch.cat(parts)
    else:
        pooled = sum(last[num_prefix:]) / len(last[num_prefix:])
    return (
        torch.stack(tokens),
        tuple(at_their_places(kept) for kept in states),
        at_their_places(last),
        pooled,
        torch.tensor(valid),
    )


class Token(NamedTuple):
    """Of a model with a `joint_layer`."""

    moment: int | None  # None: of a tube over several frames
    place: tuple | None  # (row, column) of its patch; None for CLS and registers
    tube: int | None
    real: bool
    time: float | None  # of its moment, in frames


def naive_joint_forward(state, config, pixel_values, frame_mask=None):
    """A model with a `joint_layer`: what its pooling gives, `(batch, features)`, and the valid tokens at the end,
    `(tokens, hidden_size)` a clip."""
    state = {name.removeprefix("tubevit."): tensor for name, tensor in state.items()}
    pooled, last = [], []
    for index, clip in enumerate(pixel_values):
        real = [True] * len(clip) if frame_mask is None else frame_mask[index].tolist()
        of_clip = _encode_joint_clip(state, config, clip, real)
        pooled.append(of_clip[0])
        last.append(of_clip[1])
    return torch.stack(pooled), last


def _encode_joint_clip(state, config, clip, real):
    eps, joint_layer = config["layer_norm_eps"], config["joint_layer"]
    prefix = [state["embeddings.cls_token"][0, 0]] if config["use_cls_token"] else []
    prefix += [state["embeddings.register_tokens"][0, i] for i in range(config["num_register_tokens"])]
    moments, later = {}, []
    for number, tube in enumerate(config["tubes"]):
        embedded, frames_seen = embed_tube(state, config, number, clip)
        read = read_tube(tube, config["hidden_size"])
        for (index, starts), vector, frames in zip(
            tokens_of(read, (len(clip), *clip.shape[2:])), embedded, frames_seen
        ):
            is_real = all(real[frame] for frame in frames)
            if len(frames) == 1:
                time = center(read, 0, starts[0])
                moments.setdefault(index[0], []).append((Token(index[0], index[1:], number, is_real, time), vector))
            else:
                later.append((Token(None, None, number, is_real, None), vector))
    if config["use_pre_layernorm"]:
        prefix = [layer_norm(vector, state, "embeddings.layernorm", eps) for vector in prefix]
        later = [(token, layer_norm(vector, state, "embeddings.layernorm", eps)) for token, vector in later]
        moments = {
            moment: [(token, layer_norm(vector, state, "embeddings.layernorm", eps)) for token, vector in tokens]
            for moment, tokens in moments.items()
        }
    # what is not real is left out altogether
    later = [(token, vector) for token, vector in later if token.real]
    moments = [tokens for _, tokens in sorted(moments.items()) if tokens[0][0].real]
    moments = [
        [(Token(tokens[0][0].moment, None, None, True, tokens[0][0].time), vector) for vector in prefix] + tokens
        for tokens in moments
    ]

    read = {}
    names = [[token for token, _ in tokens] for tokens in moments]
    z0 = [[vector for _, vector in tokens] for tokens in moments]
    states = z0
    for layer in range(joint_layer):
        read[layer] = [list(zip(*pair)) for pair in zip(names, states)]
        states = [encode_layer(tokens, raw, state, config, layer) for tokens, raw in zip(states, z0)]
    read[joint_layer] = [list(zip(*pair)) for pair in zip(names, states)]

    joined = join(names, states, config, with_time=True) + later
    z0 = [vector for _, vector in join(names, z0, config, with_time=False) + later]
    names = [token for token, _ in joined]
    vectors = [vector for _, vector in joined]
    for layer in range(joint_layer, config["num_hidden_layers"]):
        vectors = encode_layer(vectors, z0, state, config, layer)
        of_moments = [
            [pair for pair in zip(names, vectors) if pair[0].moment == m]
            for m in dict.fromkeys(token.moment for token in names if token.moment is not None)
        ]
        read[layer + 1] = of_moments
    last = [layer_norm(vector, state, "layernorm", eps) for vector in vectors]

    kind = config["pooling_type"]
    if kind == "attention":
        pooled = attention([state["pooler.query"][0, 0]], last, state, "pooler", config["num_attention_heads"])[0]
    elif kind == "grid":
        parts = []
        for number in config["pooling_layers"] or [config["num_hidden_layers"]]:
            joined = number > config["joint_layer"] and len(read[number]) > 1
            height, width = config["joint_pooling"] if joined else (1, 1)
            of_tubes = [
                (
                    read_tube(config["tubes"][token.tube], config["hidden_size"]),
                    (moment, token.place[0] // height, token.place[1] // width),
                    layer_norm(vector, state, "layernorm", eps),
                )
                for moment, tokens in enumerate(read[number])
                for token, vector in tokens
                if token.place is not None
            ]
            parts += grid_features(of_tubes, config, (1, height, width))
        pooled = torch.cat(parts)
    else:
        first = {}
        for token, vector in zip(names, last):
            if token.moment is not None and token.place is None:
                first.setdefault(token.moment, vector)
        from_tubes = [vector for token, vector in zip(names, last) if token.tube is not None]
        chosen = list(first.values()) if kind == "cls" else from_tubes
        pooled = sum(chosen) / len(chosen)
    return pooled, torch.stack(last)


def join(names, states, config, with_time):
    """Patches averaged over regions, and the time of the moment; nothing of both for a single moment."""
    if len(names) == 1:
        return list(zip(names[0], states[0]))
    height, width = config["joint_pooling"]
    joined = []
    for tokens, vectors in zip(names, states):
        regions = {}
        for token, vector in zip(tokens, vectors):
            key = (
                (token.tube, len(regions))
                if token.place is None
                else (token.tube, token.place[0] // height, token.place[1] // width)
            )
            regions.setdefault(key, []).append((token, vector))
        for inside in regions.values():
            token = inside[0][0]
            vector = sum(vector for _, vector in inside) / len(inside)
            if with_time:
                vector = vector + sincos_time(token.time, len(vector))
            joined.append((token, vector))
    return joined


def grid_features(tokens, config, scale=(1, 1, 1)):
    """Means over time of each region in space; how much its patches change, by itself and beside the others; how each
    region in time differs from the means; the greatest change of any patch from step to step; and roots of changes
    with their sign.

    Of tokens `(tube, (t, h, w), vector)`. `scale`: tokens that were pooled to one along each axis.
    """

    grid = config["pooling_grid"]
    statistics = config.get("pooling_statistics") or ["means", "changes", "shares", "differences", "peaks"]

    def stretch(tube, axis, index):
        """Where a token's share of an axis begins and ends; that of a pooled token as if there had been all of it."""
        _, stride, offset, factors, _ = tube
        starts = [offset[axis] + neighbour * (stride[axis] // factors[axis]) for neighbour in range(factors[axis])]
        length = stride[axis] * scale[axis]
        begin = center(tube, axis, starts) - stride[axis] / 2 + index[axis] * length
        return begin, begin + length

    def divide(tube, axis, number):
        """Parts of an axis for a tube's tokens: of all that tokens cover, or of what its own do where that begins or
        ends less than a stride away."""
        shares = [stretch(of_tube, axis, index) for of_tube, index, _ in tokens]
        own = [stretch(of_tube, axis, index) for of_tube, index, _ in tokens if of_tube == tube]
        low, high = min(begin for begin, _ in shares), max(end for _, end in shares)
        own_low, own_high = min(begin for begin, _ in own), max(end for _, end in own)
        step = tube[1][axis] * scale[axis]
        low = own_low if own_low - low < step else low
        high = own_high if high - own_high < step else high
        return [(low + i * (high - low) / number, low + (i + 1) * (high - low) / number) for i in range(number)]

    def lies_in(share, part):
        return share[1] > part[0] + 1e-9 and share[0] < part[1] - 1e-9

    def mean(vectors):
        return sum(vectors) / len(vectors)

    # a patch is a place in the grid of a tube: all tokens there, in the order of time
    patches = {}
    for tube, index, vector in tokens:
        patches.setdefault((tube, index[1:]), []).append((index, vector))
    steps = [{} for _ in range(grid[0])]
    for number_of_step, step in enumerate(steps):
        for (tube, place), of_patch in patches.items():
            part = divide(tube, 0, grid[0])[number_of_step]
            inside = []
            for number, (index, vector) in enumerate(of_patch):
                begin, end = stretch(tube, 0, index)
                begin = -math.inf if number == 0 else begin
                end = math.inf if number == len(of_patch) - 1 else end
                if lies_in((begin, end), part):
                    inside.append(vector)
            step[tube, place] = mean(inside)
    changes = [
        {patch: (after[patch] - before[patch]).abs() for patch in patches}
        for before, after in itertools.pairwise(steps)
    ]
    means, changed, signed, differences = [], [], [], [[] for _ in steps]
    for row, column in itertools.product(range(grid[1]), range(grid[2])):
        # the patches of each tube in this region
        inside = {}
        for tube, place in patches:
            in_rows, in_columns = divide(tube, 1, grid[1])[row], divide(tube, 2, grid[2])[column]
            if lies_in(stretch(tube, 1, (0, *place)), in_rows) and lies_in(stretch(tube, 2, (0, *place)), in_columns):
                inside.setdefault(tube, []).append((tube, place))
        nothing = [torch.zeros_like(tokens[0][2])]
        of_steps = [
            mean([mean([step[patch] for patch in of_tube]) for of_tube in inside.values()] or nothing)
            for step in steps
        ]
        means.append(mean(of_steps))
        for differences_of_step, of_step in zip(differences, of_steps):
            differences_of_step.append(of_step - means[-1])
        moving = [of_tube for of_tube in inside.values() if len(patches[of_tube[0]]) > 1]
        moving = moving if len(steps) > 1 else []
        changed.append(
            mean([mean([step[patch] for step in changes for patch in of_tube]) for of_tube in moving] or nothing)
        )
        roots = [
            mean(
                [
                    (after[patch] - before[patch]) / ((after[patch] - before[patch]).abs() + 1e-6).sqrt()
                    for before, after in itertools.pairwise(steps)
                    for patch in of_tube
                ]
            )
            for of_tube in moving
        ]
        signed.append(mean(roots or nothing))
    peaks = [torch.stack(list(step.values())).amax(dim=0) for step in changes]
    share_of = mean(changed).clamp_min(1e-6)
    shares = [change / share_of for change in changed]
    # a change of nothing is given as the root of a millionth
    changed, shares, peaks = (
        [value.clamp_min(1e-6).sqrt() for value in values] for values in (changed, shares, peaks)
    )
    found = {
        "means": means,
        "changes": changed,
        "shares": shares,
        "differences": [vector for step in differences for vector in step],
        "peaks": peaks,
        "signed": signed,
    }
    return [vector for name, vectors in found.items() if name in statistics for vector in vectors]


def naive_pretraining(state, config, pixel_values, visible, targets):
    """Predictions of a `TubeViTForPreTraining`, `(batch, targets, layers, target_size)`. `visible` and `targets` list
    tube tokens, by their place behind CLS and registers."""
    return torch.stack([_predict_clip(state, config, clip, visible, targets) for clip in pixel_values])


def _predict_clip(state, config, clip, visible, targets):
    settings, eps = config["pretraining"], config["layer_norm_eps"]
    encoder = {name.removeprefix("tubevit."): tensor for name, tensor in state.items()}
    prefix = [encoder["embeddings.cls_token"][0, 0]] if config["use_cls_token"] else []
    prefix += [encoder["embeddings.register_tokens"][0, i] for i in range(config["num_register_tokens"])]
    embedded, positions = [], []
    for number in range(len(config["tubes"])):
        embedded += embed_tube(encoder, config, number, clip)[0]
        tube = read_tube(config["tubes"][number], config["hidden_size"])
        tokens = tokens_of(tube, (len(clip), *clip.shape[2:]))
        grid = [count + 1 for count in tokens[-1][0]] if tokens else None
        positions += [position(encoder, config, number, tube, token, grid) for token in tokens]
    tokens = prefix + [embedded[index] for index in visible]
    if config["use_pre_layernorm"]:
        tokens = [layer_norm(token, encoder, "embeddings.layernorm", eps) for token in tokens]

    read, z0 = [], tokens
    for index in range(max(settings["layers"])):
        tokens = encode_layer(tokens, z0, encoder, config, index)
        if index + 1 in settings["layers"]:
            read.append([layer_norm(token, encoder, "layernorm", eps) for token in tokens])
    places = list(visible)
    if settings["decoder_layers"]:
        decoder = {name.removeprefix("decoder."): tensor for name, tensor in state.items() if "decoder." in name}
        [tokens] = read
        for target in targets:
            if target not in visible:
                places.append(target)
                tokens = [*tokens, state["decoder.mask_token"][0, 0] + positions[target]]
        for index in range(settings["decoder_layers"]):
            tokens = encode_layer(tokens, tokens, decoder, {**config, "gate_layer": None}, index)
        read = [[layer_norm(token, decoder, "layernorm", eps) for token in tokens]]
    rows = [len(prefix) + places.index(target) for target in targets]
    return torch.stack(
        [torch.stack([linear(of_layer[row], state, f"heads.{i}") for i, of_layer in enumerate(read)]) for row in rows]
    )


def naive_pixel_targets(config, pixel_values):
    """Of each tube token its pixels, averaged to `pixel_size` and brought to mean 0 and variance 1: `(batch, tokens,
    channels * t * h * w)`."""
    pixel_size = config["pretraining"]["pixel_size"]

    def bins(region, parts):
        length = len(region)
        return [region[part * length // parts : -(-(part + 1) * length // parts)] for part in range(parts)]

    targets = []
    for clip in pixel_values:
        of_clip = []
        for values in config["tubes"]:
            tube = read_tube(values, config["hidden_size"])
            for _, starts in tokens_of(tube, (len(clip), *clip.shape[2:])):
                axes = [bins(seen(tube, axis, starts[axis]), pixel_size[axis]) for axis in range(3)]
                averages = []
                for channel in range(clip.shape[1]):
                    for box in itertools.product(*axes):
                        pixels = [clip[t, channel, y, x] for t, y, x in itertools.product(*box)]
                        averages.append(sum(pixels) / len(pixels))
                averages = torch.stack(averages)
                centered = averages - averages.mean()
                of_clip.append(centered / (centered.square().mean() + 1e-6) ** 0.5)
        targets.append(torch.stack(of_clip))
    return torch.stack(targets)


def naive_tube_targets(states, frame_positions, config, size):
    """A teacher's states `(batch, t, h, w, c)` of each tube token: mean and change, `(batch, tokens, 2 * c)`."""
    _, steps, rows, columns, _ = states.shape
    times = [position + 0.5 for position in frame_positions]
    borders = [0.0, *((before + after) / 2 for before, after in itertools.pairwise(times)), float(size[0])]

    def overlap(region, begin, end):
        return max(0.0, min(region[-1] + 1, end) - max(region[0], begin))

    def at(frame, of_steps):
        """Of the teacher's frames before and after a frame, each counts by how near it is."""
        before = [step for step in range(steps) if frame_positions[step] <= frame]
        after = [step for step in range(steps) if frame_positions[step] > frame]
        if not before or not after:
            return of_steps[-1] if before else of_steps[0]
        step = before[-1]
        way = (frame - frame_positions[step]) / (frame_positions[step + 1] - frame_positions[step])
        return (1 - way) * of_steps[step] + way * of_steps[step + 1]

    targets = []
    for values in config["tubes"]:
        tube = read_tube(values, config["hidden_size"])
        for _, starts in tokens_of(tube, size):
            frames, height, width = (seen(tube, axis, starts[axis]) for axis in range(3))
            total, volume, of_steps = 0, 0.0, []
            for step in range(steps):
                duration = overlap(frames, borders[step], borders[step + 1])
                in_space, area = 0, 0.0
                for row, column in itertools.product(range(rows), range(columns)):
                    share = overlap(height, row * size[1] / rows, (row + 1) * size[1] / rows)
                    share *= overlap(width, column * size[2] / columns, (column + 1) * size[2] / columns)
                    in_space, area = in_space + share * states[:, step, row, column], area + share
                total, volume = total + duration * in_space, volume + duration * area
                of_steps.append(in_space / area)
            # until the next token begins, or its own end if that is later, but in the clip
            last = max(frames[-1], frames[0] + tube[1][0] - 1)
            change = at(min(last, size[0] - 1), of_steps) - at(frames[0], of_steps)
            targets.append(torch.cat([total / volume, change], dim=-1))
    return torch.stack(targets, dim=1)
