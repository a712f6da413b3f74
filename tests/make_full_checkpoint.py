"""Write random checkpoints of the published layout and size, for tests without the real weights.

    python make_full_checkpoint.py OUT_DIR [mini] [mega] [vqgan]      (default: mini vqgan)

Makes OUT_DIR/dalle-mini and OUT_DIR/dalle-mega (config.json, flax_model.msgpack; 1.75 and 10.4 GB
in float32) and OUT_DIR/vqgan (304 MB). Needs numpy and msgpack only. The weights are seeded, so the
expected values in fixtures/full_expected (computed by the reference implementations) hold for mini
and vqgan. No tokenizer files are written.
"""

import json
import sys
from pathlib import Path

import msgpack
import numpy as np

COMMON = {
    "model_type": "dallebart",
    "activation_function": "gelu",
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "do_sample": True,
    "force_ln_scale": False,
    "gradient_checkpointing": True,
    "is_encoder_decoder": True,
    "init_std": 0.02,
    "ln_positions": "normformer",
    "ln_type": "layernorm",
    "normalize_text": True,
    "scale_embedding": False,
    "sinkhorn_iters": 1,
    "tau_init": 0.05,
    "tie_word_embeddings": False,
    "use_absolute_position_embeddings": True,
    "use_alibi": False,
    "use_bias": False,
    "use_cache": True,
    "use_cosine_attention": False,
    "use_deepnet_scaling": False,
    "use_final_ln_decoder": True,
    "use_final_ln_encoder": True,
    "use_glu": True,
    "use_head_scale": False,
    "use_scan": True,
    "use_swin_position_embeddings": False,
    "max_text_length": 64,
    "image_length": 256,
    "decoder_start_token_id": 16384,
    "bos_token_id": 16385,
    "eos_token_id": 16385,
    "pad_token_id": 16385,
    "min_length": 257,
    "max_length": 257,
}
MINI = COMMON | {
    "d_model": 1024,
    "encoder_layers": 12,
    "decoder_layers": 12,
    "encoder_attention_heads": 16,
    "decoder_attention_heads": 16,
    "encoder_ffn_dim": 2730,
    "decoder_ffn_dim": 2730,
    "encoder_vocab_size": 50264,
    "image_vocab_size": 16384,
}
MEGA = COMMON | {
    "d_model": 2048,
    "encoder_layers": 24,
    "decoder_layers": 24,
    "encoder_attention_heads": 32,
    "decoder_attention_heads": 32,
    "encoder_ffn_dim": 4096,
    "decoder_ffn_dim": 4096,
    "encoder_vocab_size": 50272,
    "image_vocab_size": 16415,
    "init_std": 0.01,
}
VQGAN = {
    "ch": 128,
    "out_ch": 3,
    "in_channels": 3,
    "num_res_blocks": 2,
    "resolution": 256,
    "z_channels": 256,
    "ch_mult": [1, 1, 2, 2, 4],
    "attn_resolutions": [16],
    "n_embed": 16384,
    "embed_dim": 256,
    "dropout": 0.0,
    "double_z": False,
    "resamp_with_conv": True,
    "num_resolutions": 5,
    "give_pre_end": False,
}


def bart_shapes(c: dict) -> dict[tuple[str, ...], tuple[int, ...]]:
    d, ffn = c["d_model"], c["encoder_ffn_dim"]
    shapes = {("lm_head", "kernel"): (d, c["image_vocab_size"] + 1)}
    for side, layer_name, vocab, length, attentions in (
        ("encoder", "FlaxBartEncoderLayers", c["encoder_vocab_size"], c["max_text_length"], 1),
        ("decoder", "FlaxBartDecoderLayers", c["image_vocab_size"] + 1, c["image_length"], 2),
    ):
        n = c[f"{side}_layers"]
        top = ("model", side)
        shapes[(*top, "embed_tokens", "embedding")] = (vocab, d)
        shapes[(*top, "embed_positions", "embedding")] = (length, d)
        shapes[(*top, "layernorm_embedding", "scale")] = (d,)
        shapes[(*top, "layernorm_embedding", "bias")] = (d,)
        shapes[(*top, "final_ln", "bias")] = (d,)
        block = (*top, "layers", layer_name)
        for a in range(attentions):
            shapes[(*block, f"LayerNorm_{2 * a}", "bias")] = (n, d)
            for proj in ("q_proj", "k_proj", "v_proj", "out_proj"):
                shapes[(*block, f"FlaxBartAttention_{a}", proj, "kernel")] = (n, d, d)
            shapes[(*block, f"LayerNorm_{2 * a + 1}", "scale")] = (n, d)
            shapes[(*block, f"LayerNorm_{2 * a + 1}", "bias")] = (n, d)
        shapes[(*block, "GLU_0", "LayerNorm_0", "bias")] = (n, d)
        shapes[(*block, "GLU_0", "Dense_0", "kernel")] = (n, d, ffn)
        shapes[(*block, "GLU_0", "Dense_1", "kernel")] = (n, d, ffn)
        shapes[(*block, "GLU_0", "LayerNorm_1", "bias")] = (n, ffn)
        shapes[(*block, "GLU_0", "Dense_2", "kernel")] = (n, ffn, d)
    return shapes


def vqgan_shapes(c: dict) -> dict[tuple[str, ...], tuple[int, ...]]:
    shapes: dict[tuple[str, ...], tuple[int, ...]] = {}

    def conv(path, c_in, c_out, k=3):
        shapes[(*path, "kernel")] = (k, k, c_in, c_out)
        shapes[(*path, "bias")] = (c_out,)

    def norm(path, channels):
        shapes[(*path, "scale")] = shapes[(*path, "bias")] = (channels,)

    def resnet(path, c_in, c_out):
        norm((*path, "norm1"), c_in)
        conv((*path, "conv1"), c_in, c_out)
        norm((*path, "norm2"), c_out)
        conv((*path, "conv2"), c_out, c_out)
        if c_in != c_out:
            conv((*path, "nin_shortcut"), c_in, c_out, 1)

    def attention(path, channels):
        norm((*path, "norm"), channels)
        for part in ("q", "k", "v", "proj_out"):
            conv((*path, part), channels, channels, 1)

    def middle(path, channels):
        resnet((*path, "block_1"), channels, channels)
        attention((*path, "attn_1"), channels)
        resnet((*path, "block_2"), channels, channels)

    widths = [c["ch"] * m for m in c["ch_mult"]]
    last = len(widths) - 1
    conv(("encoder", "conv_in"), c["in_channels"], c["ch"])
    channels = c["ch"]
    for i, width in enumerate(widths):
        for j in range(c["num_res_blocks"]):
            resnet(("encoder", f"down_{i}", f"block_{j}"), channels, width)
            channels = width
            if c["resolution"] >> i in c["attn_resolutions"]:
                attention(("encoder", f"down_{i}", f"attn_{j}"), width)
        if i < last:
            conv(("encoder", f"down_{i}", "downsample", "conv"), width, width)
    middle(("encoder", "mid"), channels)
    norm(("encoder", "norm_out"), channels)
    conv(("encoder", "conv_out"), channels, c["z_channels"])

    conv(("decoder", "conv_in"), c["z_channels"], channels)
    middle(("decoder", "mid"), channels)
    for i in reversed(range(len(widths))):
        for j in range(c["num_res_blocks"] + 1):
            resnet(("decoder", f"up_{i}", f"block_{j}"), channels, widths[i])
            channels = widths[i]
            if c["resolution"] >> i in c["attn_resolutions"]:
                attention(("decoder", f"up_{i}", f"attn_{j}"), channels)
        if i > 0:
            conv(("decoder", f"up_{i}", "upsample", "conv"), channels, channels)
    norm(("decoder", "norm_out"), channels)
    conv(("decoder", "conv_out"), channels, c["out_ch"])
    conv(("quant_conv",), c["z_channels"], c["embed_dim"], 1)
    conv(("post_quant_conv",), c["embed_dim"], c["z_channels"], 1)
    shapes[("quantize", "embedding", "embedding")] = (c["n_embed"], c["embed_dim"])
    return shapes


def draw(
    path: tuple[str, ...], shape: tuple[int, ...], generator: np.random.Generator
) -> np.ndarray:
    leaf = path[-1]
    value = generator.standard_normal(shape, dtype=np.float32)
    if leaf == "scale":
        value *= 0.3
        value += 1
    elif leaf == "bias":
        value *= 0.1
    elif leaf == "embedding":
        value *= 0.5
    else:
        fan_in = np.prod(shape[:-1]) if len(shape) == 4 else shape[-2]
        value *= np.float32(1.2 / np.sqrt(fan_in))
    if path[0] == "lm_head":
        value *= 2
    if path == ("decoder", "conv_out", "kernel"):
        value *= 0.3
    if path == ("decoder", "conv_out", "bias"):
        value += 0.5
    return value


def write_tree(file, shapes: dict, prefix: tuple[str, ...], generator: np.random.Generator) -> None:
    """Write the map below `prefix`: leaves in sorted order, one in memory at a time."""
    packer = msgpack.Packer(use_bin_type=True)
    depth = len(prefix)
    names = sorted({path[depth] for path in shapes if path[:depth] == prefix})
    file.write(packer.pack_map_header(len(names)))
    for name in names:
        file.write(packer.pack(name))
        path = (*prefix, name)
        if path not in shapes:
            write_tree(file, shapes, path, generator)
            continue
        array = draw(path, shapes[path], generator)
        head = msgpack.packb(array.shape) + msgpack.packb(array.dtype.name)
        body = 1 + len(head) + 5 + array.nbytes  # array header, shape, dtype, bin32 header, bytes
        short = array.nbytes < 2**16  # msgpack picks the shortest header: so do we
        if short:
            payload = b"\x93" + head + msgpack.packb(array.tobytes(), use_bin_type=True)
            file.write(msgpack.packb(msgpack.ExtType(1, payload)))
        else:
            file.write(b"\xc9" + body.to_bytes(4, "big") + b"\x01")  # ext32, type 1
            file.write(b"\x93" + head + b"\xc6" + array.nbytes.to_bytes(4, "big"))
            file.write(memoryview(array).cast("B"))


def write(folder: Path, config: dict, shapes: dict, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    with open(folder / "flax_model.msgpack", "wb") as file:
        write_tree(file, shapes, (), np.random.default_rng(seed))


def main(out: Path, what: list[str]) -> None:
    for name in what:
        config, shapes, seed, folder = {
            "mini": (MINI, bart_shapes(MINI), 70, "dalle-mini"),
            "mega": (MEGA, bart_shapes(MEGA), 72, "dalle-mega"),
            "vqgan": (VQGAN, vqgan_shapes(VQGAN), 71, "vqgan"),
        }[name]
        count = sum(int(np.prod(s)) for s in shapes.values())
        write(out / folder, config, shapes, seed)
        print(f"{folder}: {count:,} parameters")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:] or ["mini", "vqgan"])
