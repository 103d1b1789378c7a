//! Hugging Face's names of the tensors of GGUF's llama architecture.

/// The name of the divisors of the rotary frequencies; Hugging Face has none for it.
pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";

/// What a tensor of a GGUF file is.
pub(super) enum Role {
    /// A weight, by its Hugging Face name.
    Weight(String),
    /// Nothing that the model reads: an old converter's table of rotary frequencies.
    Unused,
}

/// What `name` is, `None` when a llama has no such tensor.
pub(super) fn role(name: &str) -> Option<Role> {
    let weight = match name {
        "token_embd.weight" => "model.embed_tokens.weight".to_owned(),
        "output_norm.weight" => "model.norm.weight".to_owned(),
        "output.weight" => "lm_head.weight".to_owned(),
        ROPE_FREQS => ROPE_FREQS.to_owned(),
        _ => return layer_role(name),
    };
    Some(Role::Weight(weight))
}

fn layer_role(name: &str) -> Option<Role> {
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let number: usize = layer.parse().ok()?;
    if number.to_string() != layer {
        return None;
    }
    let part = match part {
        "attn_norm.weight" => "input_layernorm.weight",
        "attn_q.weight" => "self_attn.q_proj.weight",
        "attn_k.weight" => "self_attn.k_proj.weight",
        "attn_v.weight" => "self_attn.v_proj.weight",
        "attn_q.bias" => "self_attn.q_proj.bias",
        "attn_k.bias" => "self_attn.k_proj.bias",
        "attn_v.bias" => "self_attn.v_proj.bias",
        "attn_output.weight" => "self_attn.o_proj.weight",
        "ffn_norm.weight" => "post_attention_layernorm.weight",
        "ffn_gate.weight" => "mlp.gate_proj.weight",
        "ffn_up.weight" => "mlp.up_proj.weight",
        "ffn_down.weight" => "mlp.down_proj.weight",
        "attn_rot_embd" | "attn_rot_embd.weight" | "attn.rot_embd" => return Some(Role::Unused),
        _ => return None,
    };
    Some(Role::Weight(format!("model.layers.{layer}.{part}")))
}
