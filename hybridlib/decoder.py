"""One step of decoding, written out for models of Llama's make: Llama, Qwen2, Qwen3.

What transformers computes in some hundred small operations a layer for every token is here done in
some fifteen: query, key and value in one product, gate and up in one, attention as two products
over keys and values that were given room for all tokens beforehand.

R: rows, D: width, H: query heads, K: key heads, S: size of a head, L: positions so far.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Cache, PreTrainedModel


@dataclass
class _Layer:
    """The weights of a layer as functions of its input."""

    norm: Callable
    query_key_value: Callable
    head_norms: Callable
    scale: float
    out: Callable
    norm_2: Callable
    gate_up: Callable
    act: Callable
    down: Callable


class Decoder:
    """A model of Llama's make and the keys and values of the rows that it decodes.

    Raises
    ------
    TypeError : for a model of another make.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        config, decoder = model.config, model.get_decoder()
        try:
            self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
            self.layers = [_layer(layer) for layer in decoder.layers]
            self.norm, self.rotary = _norm(decoder.norm), decoder.rotary_emb
        except AttributeError as error:
            raise TypeError(
                f"sampling knows models made like Llama, not {type(model).__name__}: {error}"
            ) from None
        self.embedding = model.get_input_embeddings().weight
        plain = model.dtype == torch.float32 and model.device.type == "cpu"
        self.attention = _two_products if plain else F.scaled_dot_product_attention
        self.head = _product([model.get_output_embeddings()])

    def begin(self, prefilled: Cache, group: int, tokens: int, hidden_RL: torch.Tensor) -> None:
        """Take over the keys and values of prompts, `group` rows each, with room for `tokens`.

        Parameters
        ----------
        hidden_RL : which positions of a row hold no token, the room included.
        """
        self.length = prefilled.get_seq_length()
        self.cache = [
            [_with_room(x, group, tokens) for x in (layer.keys, layer.values)]
            for layer in prefilled.layers
        ]
        keys, lowest = self.cache[0][0], torch.finfo(self.embedding.dtype).min
        self.bias_RL = torch.zeros(hidden_RL.shape, dtype=keys.dtype, device=keys.device)
        self.bias_RL.masked_fill_(hidden_RL, lowest)
        position_L = torch.arange(self.length + tokens, device=keys.device)
        cos, sin = self.rotary(keys, position_L[None])
        half = sin.shape[-1] // 2
        sign = torch.tensor([-1.0] * half + [1.0] * half, dtype=sin.dtype, device=sin.device)
        self.cos_LS, self.sin_LS = cos[0], sin[0] * sign

    def keep(self, alive_R: torch.Tensor) -> None:
        """Forget the other rows."""
        self.bias_RL = self.bias_RL[alive_R]
        self.cache = [[states[alive_R] for states in layer] for layer in self.cache]

    def step(self, token_R: torch.Tensor, position_R: torch.Tensor) -> torch.Tensor:
        """Logits (R, V) behind one more token a row, which stands at `position_R` of its text."""
        at, self.length = self.length, self.length + 1
        rows, heads, key_heads = len(token_R), self.heads, self.key_heads
        cos_R1S, sin_R1S = self.cos_LS[position_R][:, None], self.sin_LS[position_R][:, None]
        bias_R11L = self.bias_RL[:, None, None, : self.length]
        hidden_RD = F.embedding(token_R, self.embedding)
        for layer, (keys, values) in zip(self.layers, self.cache):
            found = layer.query_key_value(layer.norm(hidden_RD)).view(
                rows, heads + 2 * key_heads, -1
            )
            query_key, value = found.split([heads + key_heads, key_heads], 1)
            query_key = layer.head_norms(query_key, heads)
            halves = query_key.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
            query_key = (query_key * cos_R1S).addcmul_(halves, sin_R1S)
            keys[:, :, at], values[:, :, at] = query_key[:, heads:], value
            query = query_key[:, :heads].reshape(rows, key_heads, heads // key_heads, -1)
            seen = (x[:, :, : self.length] for x in (keys, values))
            mixed = self.attention(query, *seen, attn_mask=bias_R11L, scale=layer.scale)
            hidden_RD = hidden_RD + layer.out(mixed.reshape(rows, -1))
            gate, up = layer.gate_up(layer.norm_2(hidden_RD)).chunk(2, -1)
            hidden_RD = hidden_RD + layer.down(layer.act(gate).mul_(up))
        return self.head(self.norm(hidden_RD))


def _with_room(states: torch.Tensor, group: int, tokens: int) -> torch.Tensor:
    """Each row `group` times, with room for more positions behind."""
    prompts, heads, length, size = states.shape
    found = states.new_empty(prompts, group, heads, length + tokens, size)
    found[:, :, :, :length] = states[:, None]
    return found.flatten(0, 1)


def _layer(layer: nn.Module) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return _Layer(
        norm=_norm(layer.input_layernorm),
        query_key_value=_product([attention.q_proj, attention.k_proj, attention.v_proj]),
        head_norms=_head_norms(attention),
        scale=attention.scaling,
        out=_product([attention.o_proj]),
        norm_2=_norm(layer.post_attention_layernorm),
        gate_up=_product([mlp.gate_proj, mlp.up_proj]),
        act=mlp.act_fn,
        down=_product([mlp.down_proj]),
    )


def _two_products(query, keys, values, attn_mask, scale: float) -> torch.Tensor:
    """Attention of one token a row; in float32 on a CPU faster than the fused kernel."""
    bias = attn_mask.expand(-1, keys.shape[1], -1, -1).flatten(0, 1)
    query, keys, values = (x.flatten(0, 1) for x in (query, keys, values))
    return torch.baddbmm(bias, query, keys.mT, alpha=scale).softmax(-1) @ values


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
    weight, bias = ([getattr(part, name) for part in parts] for name in ("weight", "bias"))
    weight = weight[0] if len(parts) == 1 else torch.cat(weight)
    bias = None if bias[0] is None else torch.cat(bias)
    if weight.dtype == torch.bfloat16 and weight.device.type == "cpu":
        # oneDNN wants bfloat16 weights in blocks of its own and would bring them there every time.
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return lambda x: F.linear(x, weight, bias)
