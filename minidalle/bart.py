"""Bart: the sequence-to-sequence network that reads text tokens and writes image tokens.

An encoder-decoder transformer in DALL·E mini's variant of BART (Lewis et al., 2019): norms before
*and* after attention (NormFormer; Shleifer, Weston and Ott, 2021), gated feed-forward layers (GLU;
Shazeer, 2020), no biases in dense layers, learned positions without BART's offset, and a head that
is not tied to the embedding. Norms that feed dense layers directly have a bias but no scale, as in
the published weights.

    text ids (B, T)  ->  memory (B, T, D)  ->  logits (B, n, K′) after each of n image tokens
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidalle.processor import multiplies_few_rows


@dataclass(frozen=True)
class BartConfig:
    """The shape of a Bart.

    Field names are those of the published configs, where they exist there.
    """

    d_model: int = 1024  # D: width of every position
    encoder_layers: int = 12  # blocks that read the text
    decoder_layers: int = 12  # blocks that write image tokens
    encoder_attention_heads: int = 16  # H: each D/H wide
    decoder_attention_heads: int = 16  # H of the decoder, to itself and to the text
    encoder_ffn_dim: int = 2730  # F: width inside the gated feed-forward layers
    decoder_ffn_dim: int = 2730  # F of the decoder
    encoder_vocab_size: int = 50264  # V: rows of the text embedding
    image_vocab_size: int = 16384  # one less than K′: the rows of image embedding and head
    codebook_size: int = 16384  # K: image tokens are 0 … K−1; K itself is the start token
    max_text_length: int = 64  # T: text tokens read, at most
    image_length: int = 256  # N: image tokens of a picture
    dropout: float = 0.0  # on embeddings and on every branch, in training only
    init_std: float = 0.02  # of the normal distribution that weights start from
    normalize_text: bool = True  # whether captions passed the TextNormalizer in training

    def __post_init__(self) -> None:
        sizes = {name: value for name, value in vars(self).items() if type(value) is int}
        for name, value in sizes.items():
            # The upper bounds only keep a damaged config from building for hours.
            most = 1024 if name.endswith("_layers") else 2**20
            if not 1 <= value <= most:
                raise ValueError(f"BartConfig.{name} is {value}; it must be from 1 to {most}")
        for name in ("encoder_attention_heads", "decoder_attention_heads"):
            heads = getattr(self, name)
            if heads < 1 or self.d_model % heads:
                raise ValueError(
                    f"BartConfig.{name} is {heads}; it must divide d_model {self.d_model}"
                )
        if self.codebook_size > self.image_vocab_size:
            raise ValueError(
                f"BartConfig.codebook_size {self.codebook_size} is above image_vocab_size "
                f"{self.image_vocab_size}: the start token would have no row in the embedding"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"BartConfig.dropout is {self.dropout}; it must be in [0, 1)")

    @classmethod
    def mini(cls) -> BartConfig:
        """DALL·E mini as published: 438 M parameters."""
        return cls()

    @classmethod
    def mega(cls) -> BartConfig:
        """DALL·E mega as published: 2.6 B parameters."""
        return cls(
            d_model=2048, encoder_layers=24, decoder_layers=24,
            encoder_attention_heads=32, decoder_attention_heads=32,
            encoder_ffn_dim=4096, decoder_ffn_dim=4096,
            encoder_vocab_size=50272, image_vocab_size=16415, init_std=0.01,
        )  # fmt: skip

    @classmethod
    def emoji(cls) -> BartConfig:
        """The embedded model: 64 image tokens of 1,024 codes, prompts of up to 32 text tokens."""
        return cls(
            d_model=256, encoder_layers=2, decoder_layers=5,
            encoder_attention_heads=4, decoder_attention_heads=4,
            encoder_ffn_dim=512, decoder_ffn_dim=512,
            encoder_vocab_size=3072, image_vocab_size=1024, codebook_size=1024,
            max_text_length=32, image_length=64,
        )  # fmt: skip

    @classmethod
    def tiny(cls) -> BartConfig:
        """For lessons and tests: 16 image tokens of 64 codes; trains in seconds."""
        return cls(
            d_model=96, encoder_layers=2, decoder_layers=3,
            encoder_attention_heads=4, decoder_attention_heads=4,
            encoder_ffn_dim=256, decoder_ffn_dim=256,
            encoder_vocab_size=320, image_vocab_size=64, codebook_size=64,
            max_text_length=24, image_length=16,
        )  # fmt: skip


class LayerNorm(nn.Module):
    """Normalise over the last axis, eps 1e-5; a bias always, a weight only where `scale`."""

    def __init__(self, width: int, *, scale: bool):
        super().__init__()
        self.register_parameter("weight", nn.Parameter(torch.ones(width)) if scale else None)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if bias.dtype != x.dtype:  # under autocast x may be bfloat16: parameters follow it
            weight, bias = None if weight is None else weight.to(x.dtype), bias.to(x.dtype)
        return F.layer_norm(x, bias.shape, weight, bias, eps=1e-5)


class Dense(nn.Linear):
    """A linear map without a bias: (..., D_in) -> (..., D_out).

    A decoder step of one picture has very few rows, at which torch is slow on many processors. A
    single row is faster as two; and in float32 two or three are multiplied at a quarter of the
    memory's speed unless the weight comes first.
    """

    def __init__(self, width_in: int, width_out: int):
        super().__init__(width_in, width_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The same map of every place of x."""
        rows = x.numel() // self.in_features
        weight_first = x.dtype == torch.float32
        fast = weight_first and multiplies_few_rows()
        if rows not in (1, 2, 3) or x.device.type != "cpu" or fast:
            return super().forward(x)
        few = x.reshape(rows, -1)
        few = torch.cat([few, few]) if rows == 1 else few  #        (2 or 3, D_in)
        y = (self.weight @ few.T).T if weight_first else super().forward(few)
        return y[:rows].reshape(*x.shape[:-1], -1)  #               (..., D_out)

    def together(self, x: Tensor, *others: Dense) -> tuple[Tensor, ...]:
        """This map of x, and those of `others`: one product in `packed.py` and `graphs.py`."""
        return self(x), *(other(x) for other in others)


class Attention(nn.Module):
    """Multi-head attention without biases.

    Keys and values are made apart, so that they can be kept.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj = Dense(width, width)
        self.k_proj = Dense(width, width)
        self.v_proj = Dense(width, width)
        self.out_proj = Dense(width, width)

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, H, L, D/H): head i takes the i-th slice of the width."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_and_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """What there is to attend to: (B, L, D) -> keys and values, (B, H, L, D/H) each."""
        return self.split_heads(self.k_proj(source)), self.split_heads(self.v_proj(source))

    def queries_keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All three of what attends to itself: (B, n, D) -> (B, H, n, D/H) each."""
        q, k, v = self.q_proj.together(x, self.k_proj, self.v_proj)  # (B, n, D) each
        return self.split_heads(q), self.split_heads(k), self.split_heads(v)

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Attend from x (B, n, D) to keys, values (B, H, L, D/H); `mask` is True on seen keys."""
        return self.answer(self.split_heads(self.q_proj(x)), keys, values, mask)

    def answer(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """The same for queries that are there already: (B, H, n, D/H) -> (B, n, D)."""
        attended = attend(queries, keys, values, mask)  #            (B, H, n, D/H)
        return self.out_proj(attended.transpose(1, 2).flatten(2))  # (B, n, D)


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax of the scaled dot products, times the values: queries (B, H, n, d) -> (B, H, n, d).

    By torch's own kernel, except where that is slow and two plain matrix products are faster.
    """
    if not slow_by_torch(queries):
        return F.scaled_dot_product_attention(queries, keys, values, mask)
    queries = queries * queries.shape[-1] ** -0.5
    scores = queries @ keys.transpose(-1, -2)  #                        (B, H, n, L)
    if mask is not None:
        scores = scores + mask.log().to(scores.dtype)  #                0 on seen keys, else −inf
    return scores.softmax(-1) @ values  #                               (B, H, n, d)


def slow_by_torch(queries: Tensor) -> bool:
    """Whether torch's attention is slow for these queries, (B, H, n, d).

    On a CPU it works with blocks of 32 queries, which takes up to five times as long for a single
    one on AMD's processors. And in bfloat16 there and back, for gradients, takes two to nine times
    as long by it (on an Intel with AMX).
    """
    if queries.device.type != "cpu":
        return False
    if queries.requires_grad:
        return queries.dtype == torch.bfloat16
    return queries.shape[2] == 1 and not multiplies_few_rows()


class GLU(nn.Module):
    """The gated feed-forward layer, a norm before it and one inside: (B, n, D) -> (B, n, D)."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.ln0 = LayerNorm(width, scale=False)
        self.fc0 = Dense(width, inner)
        self.fc1 = Dense(width, inner)
        self.ln1 = LayerNorm(inner, scale=False)
        self.fc2 = Dense(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, x = self.fc0.together(self.ln0(x), self.fc1)  # (B, n, F) each
        x = F.gelu(gate) * x  #                                (B, n, F): it decides what passes
        return self.fc2(self.ln1(x))  #                        (B, n, D)


class EncoderBlock(nn.Module):
    """Self-attention over the text, then GLU, each added to what came in."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float):
        super().__init__()
        self.pre_self_attn_layer_norm = LayerNorm(width, scale=False)
        self.self_attn = Attention(width, heads)
        self.self_attn_layer_norm = LayerNorm(width, scale=True)
        self.glu = GLU(width, inner)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, text_mask: Tensor) -> Tensor:
        y = self.pre_self_attn_layer_norm(x)  #                                (B, T, D)
        queries, keys, values = self.self_attn.queries_keys_and_values(y)  #   (B, H, T, D/H) each
        y = self.self_attn.answer(queries, keys, values, text_mask)  #         (B, T, D)
        x = x + self.dropout(self.self_attn_layer_norm(y))  #                  (B, T, D)
        return x + self.dropout(self.glu(x))  #                                (B, T, D)


class DecoderBlock(nn.Module):
    """Causal self-attention over the image tokens so far, attention to the text, then GLU."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float):
        super().__init__()
        self.pre_self_attn_layer_norm = LayerNorm(width, scale=False)
        self.self_attn = Attention(width, heads)
        self.self_attn_layer_norm = LayerNorm(width, scale=True)
        self.pre_encoder_attn_layer_norm = LayerNorm(width, scale=False)
        self.encoder_attn = Attention(width, heads)
        self.encoder_attn_layer_norm = LayerNorm(width, scale=True)
        self.glu = GLU(width, inner)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, cache: LayerCache, causal_mask: Tensor, text_mask: Tensor
    ) -> Tensor:
        """n new image positions, (B, n, D) -> (B, n, D); masks are True on what may be seen."""
        y = self.pre_self_attn_layer_norm(x)  #                                (B, n, D)
        queries, keys, values = self.self_attn.queries_keys_and_values(y)  #   (B, H, n, D/H) each
        keys, values = cache.extend(keys, values)  #                           (B, H, room, D/H)
        y = self.self_attn.answer(queries, keys, values, causal_mask)  #              (B, n, D)
        x = x + self.dropout(self.self_attn_layer_norm(y))  #                         (B, n, D)

        # R texts, and B/R pictures of each, whose positions ask the same keys of the text.
        y = self.pre_encoder_attn_layer_norm(x)  #                                    (B, n, D)
        y = y.reshape(len(cache.text_keys), -1, y.shape[-1])  #                       (R, B/R·n, D)
        y = self.encoder_attn(y, cache.text_keys, cache.text_values, text_mask)  #    (R, B/R·n, D)
        x = x + self.dropout(self.encoder_attn_layer_norm(y.view_as(x)))  #           (B, n, D)

        return x + self.dropout(self.glu(x))  #                                (B, n, D)


class LayerCache:
    """What one decoder block need not compute again: keys and values of text and image so far.

    The text part has a row for each of R texts, the image part for each of B pictures: the first
    B/R are of the first text, and so on. The image part holds `room` places, and is filled in
    place; unless `keep`, it holds nothing, which is what training wants.
    """

    def __init__(self, text_keys: Tensor, text_values: Tensor, keep: bool = False):
        self.keep = keep
        if keep:  # they are read at every step
            text_keys, text_values = text_keys.contiguous(), text_values.contiguous()
        self.text_keys, self.text_values = text_keys, text_values  #  (R, H, T, D/H) each
        self.keys = self.values = text_keys[:0, :, :0]  #             (B, H, room, D/H) each
        self.places, self.room = torch.empty(0), 0  # where the new tokens go; see Cache.advance

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put keys and values of n new tokens, (B, H, n, D/H), into their places.

        Returns those of all places, (B, H, room, D/H) each, the empty ones behind included, since
        on a CPU products with a part of the memory set aside would cost a copy.
        """
        if not self.keep:
            return keys, values
        if self.room > self.keys.shape[2]:
            self.keys = grown(self.keys, keys, self.room)
            self.values = grown(self.values, values, self.room)
        self.keys.index_copy_(2, self.places, keys)
        self.values.index_copy_(2, self.places, values)
        return self.keys[:, :, : self.room], self.values[:, :, : self.room]


def grown(held: Tensor, new: Tensor, room: int) -> Tensor:
    """What is held (B, H, past, d) with room for more like `new`, zeros in what is empty."""
    larger = new.new_zeros(*new.shape[:2], room, new.shape[3])
    if held.numel():
        larger[:, :, : held.shape[2]] = held
    return larger


class Cache:
    """The key/value cache of all decoder blocks: `Bart.new_cache` makes it, `decode` fills it.

    Its room grows by BLOCK places at a time.
    """

    BLOCK = 32

    def __init__(self, layers: list[LayerCache]):
        self.layers = layers
        self.length = 0  # decoder inputs held so far

    def advance(self, n: int) -> tuple[Tensor, Tensor]:
        """Make room for n new inputs: their places (n,), and which ones they may see, (n, room)."""
        first, self.length = self.length, self.length + n
        keep = self.layers[0].keep
        room = -(-self.length // self.BLOCK) * self.BLOCK if keep else self.length
        every = torch.arange(room, device=self.layers[0].text_keys.device)
        places = every[first : self.length]
        for layer in self.layers:
            layer.places, layer.room = places, room
        return places, every <= places[:, None]


class Embedding(nn.Module):
    """Token plus position, normalised: ids (B, n) -> (B, n, D). The base of both stacks."""

    def __init__(self, vocabulary: int, length: int, width: int, dropout: float):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, width)
        self.embed_positions = nn.Embedding(length, width)
        self.layernorm_embedding = LayerNorm(width, scale=True)
        self.dropout = nn.Dropout(dropout)

    def embed(self, ids: Tensor, places: Tensor | None = None) -> Tensor:
        """Ids (B, n) in their places (n,), which are the first n unless given."""
        if places is None:
            places = torch.arange(ids.shape[1], device=ids.device)
        x = self.embed_tokens(ids) + self.embed_positions(places)  #  (B, n, D)
        return self.dropout(self.layernorm_embedding(x))  #           (B, n, D)


class BartEncoder(Embedding):
    """Text ids to memory."""

    def __init__(self, config: BartConfig):
        width, dropout = config.d_model, config.dropout
        heads, inner = config.encoder_attention_heads, config.encoder_ffn_dim
        super().__init__(config.encoder_vocab_size, config.max_text_length, width, dropout)
        blocks = (EncoderBlock(width, heads, inner, dropout) for _ in range(config.encoder_layers))
        self.layers = nn.ModuleList(blocks)
        self.final_ln = LayerNorm(width, scale=False)

    def forward(self, text_ids: Tensor, text_mask: Tensor) -> Tensor:
        visible = text_mask[:, None, None, :].bool()  # (B, 1, 1, T) no query sees padding
        x = self.embed(text_ids)  #                     (B, T, D)
        for layer in self.layers:
            x = layer(x, visible)  #                    (B, T, D)
        return self.final_ln(x)  #                      (B, T, D)


class BartDecoder(Embedding):
    """Image ids so far, and memory, to states from which the head reads the next image token."""

    def __init__(self, config: BartConfig):
        width, dropout = config.d_model, config.dropout
        heads, inner = config.decoder_attention_heads, config.decoder_ffn_dim
        super().__init__(config.image_vocab_size + 1, config.image_length, width, dropout)
        blocks = (DecoderBlock(width, heads, inner, dropout) for _ in range(config.decoder_layers))
        self.layers = nn.ModuleList(blocks)
        self.final_ln = LayerNorm(width, scale=False)

    def forward(self, image_ids: Tensor, text_mask: Tensor, cache: Cache) -> Tensor:
        """n new inputs, (B, n) -> (B, n, D), after what the cache holds; text_mask is (R, T)."""
        visible = text_mask[:, None, None, :].bool()  #       (R, 1, 1, T)
        places, causal = cache.advance(image_ids.shape[1])  # (n,), (n, room)
        x = self.embed(image_ids, places)  #                  (B, n, D)
        for layer, layer_cache in zip(self.layers, cache.layers, strict=True):
            x = layer(x, layer_cache, causal, visible)  #     (B, n, D)
        return self.final_ln(x)  #                            (B, n, D)


class Bart(nn.Module):
    """Encoder, decoder and head."""

    def __init__(self, config: BartConfig):
        super().__init__()
        self.config = config
        self.encoder = BartEncoder(config)
        self.decoder = BartDecoder(config)
        self.lm_head = Dense(config.d_model, config.image_vocab_size + 1)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=config.init_std)

    def encode(self, text_ids: Tensor, text_mask: Tensor) -> Tensor:
        """Text to memory, after the final norm: ids (B, T), mask (B, T), 1 on text -> (B, T, D).

        Raises ValueError for ids that the embedding has no row for, and for more than
        max_text_length of them.
        """
        rows, longest = self.config.encoder_vocab_size, self.config.max_text_length
        if text_ids.shape[1] > longest:
            raise ValueError(f"{text_ids.shape[1]} text tokens; this model reads at most {longest}")
        if text_ids.numel() and not 0 <= int(text_ids.min()) <= int(text_ids.max()) < rows:
            raise ValueError(
                f"text ids range from {int(text_ids.min())} to {int(text_ids.max())}; "
                f"the embedding has rows 0 to {rows - 1}"
            )
        return self.encoder(text_ids, text_mask)

    def new_cache(self, memory: Tensor, keep: bool = True) -> Cache:
        """A cache for decoding from memory (R, T, D); unless `keep`, of its text only."""
        text = [layer.encoder_attn.keys_and_values(memory) for layer in self.decoder.layers]
        return Cache([LayerCache(keys, values, keep) for keys, values in text])

    def decode(
        self, image_ids: Tensor, memory: Tensor, text_mask: Tensor, cache: Cache | None = None
    ) -> Tensor:
        """Logits of the token after each decoder input: (B, n), memory (R, T, D) -> (B, n, K′).

        text_mask is (R, T). Of R texts, each has B/R pictures, which stand together: B rows for
        memory's R, where often B = R.
        Without a cache, `image_ids` is everything so far, beginning with the start token. With a
        cache from `new_cache(memory)`, it is what came since the last call.
        Raises ValueError for more inputs than there are positions, or if B is no multiple of R.
        """
        if len(image_ids) % len(memory):
            raise ValueError(
                f"{len(image_ids)} rows of image tokens for {len(memory)} texts; "
                f"each text must have as many pictures as the others"
            )
        past = cache.length if cache is not None else 0
        if past + image_ids.shape[1] > self.config.image_length:
            raise ValueError(
                f"{past + image_ids.shape[1]} decoder inputs; "
                f"this model has {self.config.image_length} positions"
            )
        cache = cache if cache is not None else self.new_cache(memory, keep=False)
        return self.lm_head(self.decoder(image_ids, text_mask, cache))

    def forward(self, text_ids: Tensor, text_mask: Tensor, image_ids: Tensor) -> Tensor:
        """Training: logits of all N image tokens at once, (B, T), (B, T), (B, N) -> (B, N, K′).

        The image tokens are shifted right inside: position t sees the start token and the tokens
        before t.
        """
        start = torch.full_like(image_ids[:, :1], self.config.codebook_size)  #     (B, 1)
        shifted = torch.cat([start, image_ids[:, :-1]], dim=1)  #                   (B, N)
        return self.decode(shifted, self.encode(text_ids, text_mask), text_mask)  # (B, N, K′)
