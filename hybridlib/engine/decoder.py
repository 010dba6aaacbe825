"""One step of decoding, written out for Llama, Qwen2 and Qwen3.

transformers computes many small operations a layer and token; here they are fewer. Query, key and
value are one product, gate and up another, and all rows of a prompt attend to it at once. The keys
and values of a prompt are stored and read once; those of a row have room for all its tokens.

P: prompts, R: rows, D: width, H: query heads, K: key heads, S: size of a head, L: positions.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Cache, PreTrainedModel

from hybridlib.engine import architecture


class _Layer:
    """The weights of a layer as functions of its input."""

    def __init__(self, layer: nn.Module) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.norm, self.norm_2 = map(_norm, (layer.input_layernorm, layer.post_attention_layernorm))
        self.query_key_value = _product([attention.q_proj, attention.k_proj, attention.v_proj])
        self.head_norms = _head_norms(attention)
        self.scale = attention.scaling
        self.out = _product([attention.o_proj])
        self.gate_up = _product([mlp.gate_proj, mlp.up_proj])
        self.act = mlp.act_fn
        self.down = _product([mlp.down_proj])


class Decoder:
    """A model and the keys and values of the rows that it decodes.

    Raises TypeError: the model is of another architecture (see `architecture`), or has adapters.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        architecture.check(model)
        config, decoder = model.config, model.get_decoder()
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.layers = [_Layer(layer) for layer in decoder.layers]
        self.norm, self.rotary = _norm(decoder.norm), decoder.rotary_emb
        self.embedding = model.get_input_embeddings().weight
        self.head = _product([model.get_output_embeddings()])

    def begin(self, prefilled: Cache, group: int, tokens: int, hidden_PL: torch.Tensor) -> None:
        """Start from the keys and values of prompts, `group` rows each, with room for `tokens`.

        Parameters
        ----------
        hidden_PL : which positions of a prompt hold no token.
        """
        prompts, longest = hidden_PL.shape
        rows, first = prompts * group, prefilled.layers[0].keys
        self.drawn, self.prompts = 0, [[x.keys, x.values] for x in prefilled.layers]
        self.own = [
            [x.new_empty(rows, self.key_heads, tokens, x.shape[-1]) for x in layer]
            for layer in self.prompts
        ]
        self.bias_PL = torch.zeros(hidden_PL.shape, dtype=first.dtype, device=first.device)
        self.bias_PL.masked_fill_(hidden_PL, torch.finfo(first.dtype).min)
        position_L = torch.arange(longest + tokens, device=first.device)
        cos, sin = self.rotary(first, position_L[None])
        half = sin.shape[-1] // 2
        sign = torch.tensor([-1.0] * half + [1.0] * half, dtype=sin.dtype, device=sin.device)
        self.cos_LS, self.sin_LS = cos[0], sin[0] * sign
        self._seat(torch.arange(prompts, device=first.device).repeat_interleave(group))

    def keep(self, alive_R: torch.Tensor) -> None:
        """Drop the other rows, and prompts that have none left."""
        left_R = alive_R.nonzero()[:, 0]
        left_P, prompt_R = self.prompt_R[left_R].unique(return_inverse=True)
        self.own = [[x.index_select(0, left_R) for x in layer] for layer in self.own]
        if len(left_P) < len(self.bias_PL):
            self.prompts = [[x[left_P] for x in layer] for layer in self.prompts]
            self.bias_PL = self.bias_PL[left_P]
        self._seat(prompt_R)

    def _seat(self, prompt_R: torch.Tensor) -> None:
        """Give rows seats at their prompts, equally many (W) at each, to attend all at once.

        `seated`: the row and key head in each seat (any in an empty one), by prompt and key head;
        `seat`: the seat of each row and key head.
        """
        self.prompt_R, heads = prompt_R, self.key_heads
        count_P = prompt_R.bincount()
        width, first_P = int(count_P.max()), count_P.cumsum(0) - count_P
        rows = torch.arange(len(prompt_R), device=prompt_R.device)
        head_K = torch.arange(heads, device=prompt_R.device)
        seat_RK = (prompt_R[:, None] * heads + head_K) * width
        seat_RK += (rows - first_P[prompt_R])[:, None]
        self.seat = seat_RK.flatten()
        self.seated = self.seat.new_zeros(len(count_P) * heads * width)
        self.seated[self.seat] = (rows[:, None] * heads + head_K).flatten()
        self.bias = self.bias_PL.repeat_interleave(heads, 0)[:, None]

    def step(self, token_R: torch.Tensor, position_R: torch.Tensor) -> torch.Tensor:
        """Logits (R, V) after one more token a row, at position `position_R` of its text."""
        at, self.drawn = self.drawn, self.drawn + 1
        rows, heads, key_heads = len(token_R), self.heads, self.key_heads
        cos_R1S, sin_R1S = self.cos_LS[position_R][:, None], self.sin_LS[position_R][:, None]
        hidden_RD = F.embedding(token_R, self.embedding)
        for layer, prompt, (keys, values) in zip(self.layers, self.prompts, self.own):
            found = layer.query_key_value(layer.norm(hidden_RD))
            found = found.view(rows, heads + 2 * key_heads, -1)
            query_key, value = found.split([heads + key_heads, key_heads], 1)
            query_key = layer.head_norms(query_key, heads)
            halves = query_key.roll(query_key.shape[-1] // 2, -1)
            query_key = (query_key * cos_R1S).addcmul_(halves, sin_R1S)
            keys[:, :, at], values[:, :, at] = query_key[:, heads:], value
            query = query_key[:, :heads].reshape(rows * key_heads, heads // key_heads, -1)
            own = [x[:, :, : self.drawn].flatten(0, 1) for x in (keys, values)]
            mixed = self._attend(query * layer.scale, prompt, own)
            hidden_RD = hidden_RD + layer.out(mixed.view(rows, -1))
            gate, up = layer.gate_up(layer.norm_2(hidden_RD)).chunk(2, -1)
            hidden_RD = hidden_RD + layer.down(layer.act(gate).mul_(up))
        return self.head(self.norm(hidden_RD))

    def _attend(self, query, prompt, own) -> torch.Tensor:
        """Attention to the prompt, by all its rows at once, and to the own tokens of a row."""
        keys, values = (x.flatten(0, 1) for x in prompt)
        apart, each, length = len(keys), query.shape[1], keys.shape[1]
        together = query.index_select(0, self.seated).view(apart, -1, query.shape[-1])
        score = torch.baddbmm(self.bias, together, keys.mT).view(-1, each, length)
        score = torch.cat([score.index_select(0, self.seat), query @ own[0].mT], -1)
        to_prompt, to_own = score.softmax(-1).split([length, own[0].shape[1]], -1)
        together = to_prompt.index_select(0, self.seated).view(apart, -1, length)
        mixed = (together @ values).view(-1, each, values.shape[-1])
        return torch.baddbmm(mixed.index_select(0, self.seat), to_own, own[1])


def _norm(norm: nn.Module) -> Callable:
    weight, epsilon = norm.weight, norm.variance_epsilon
    return lambda x: F.rms_norm(x, weight.shape, weight, epsilon)


def _head_norms(attention: nn.Module) -> Callable:
    """Qwen3 normalises queries and keys."""
    if not hasattr(attention, "q_norm"):
        return lambda query_key, heads: query_key
    query, key = _norm(attention.q_norm), _norm(attention.k_norm)
    return lambda x, heads: torch.cat([query(x[:, :heads]), key(x[:, heads:])], 1)


def _product(parts: list[nn.Linear]) -> Callable:
    """Some linear layers of the same input as one."""
    if other := [type(part) for part in parts if type(part) is not nn.Linear]:
        name = f"{other[0].__module__}.{other[0].__name__}"
        raise TypeError(f"sampling reads torch.nn.Linear, not {name}; adapters: use InferenceCopy")
    weight, bias = ([getattr(part, name) for part in parts] for name in ("weight", "bias"))
    weight = weight[0] if len(parts) == 1 else torch.cat(weight)
    bias = None if bias[0] is None else torch.cat(bias)
    in_bf16 = weight.dtype == torch.bfloat16 and weight.device.type == "cpu"
    if in_bf16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        # oneDNN would copy bfloat16 weights into its own layout at every call.
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return lambda x: F.linear(x, weight, bias)
