//! Hugging Face's names of the tensors of GGUF files.

use super::architecture::Architecture;

/// The name of the divisors of the rotary frequencies; Hugging Face has none for it.
pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";

/// What a tensor of a GGUF file is.
pub(super) enum Role {
    /// A weight, by its Hugging Face name.
    Weight(String),
    /// One weight of every expert, stacked, each by its Hugging Face name: `{prefix}.{index}.{part}`.
    Experts {
        /// Before the expert's number.
        prefix: String,
        /// After it.
        part: &'static str,
    },
    /// Nothing that the model reads: an old converter's table of rotary frequencies.
    Unused,
}

/// What `name` is, `None` when no model has such a tensor. Whether this one has is seen by its
/// configuration.
pub(super) fn role(name: &str, architecture: Architecture) -> Option<Role> {
    let weight = match name {
        "token_embd.weight" => "model.embed_tokens.weight".to_owned(),
        "output_norm.weight" => "model.norm.weight".to_owned(),
        "output.weight" => "lm_head.weight".to_owned(),
        ROPE_FREQS => ROPE_FREQS.to_owned(),
        _ => return layer_role(name, architecture),
    };
    Some(Role::Weight(weight))
}

fn layer_role(name: &str, architecture: Architecture) -> Option<Role> {
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let number: usize = layer.parse().ok()?;
    if number.to_string() != layer {
        return None;
    }
    let experts = |part| {
        let prefix = format!("model.layers.{layer}.mlp.experts");
        Some(Role::Experts { prefix, part })
    };
    let part = match part {
        "attn_norm.weight" => "input_layernorm.weight",
        "attn_q.weight" => "self_attn.q_proj.weight",
        "attn_k.weight" => "self_attn.k_proj.weight",
        "attn_v.weight" => "self_attn.v_proj.weight",
        "attn_q.bias" => "self_attn.q_proj.bias",
        "attn_k.bias" => "self_attn.k_proj.bias",
        "attn_v.bias" => "self_attn.v_proj.bias",
        "attn_output.weight" => "self_attn.o_proj.weight",
        "attn_q_norm.weight" => "self_attn.q_norm.weight",
        "attn_k_norm.weight" => "self_attn.k_norm.weight",
        "ffn_norm.weight" if architecture.is_gemma() => "pre_feedforward_layernorm.weight",
        "ffn_norm.weight" => "post_attention_layernorm.weight",
        "post_attention_norm.weight" => "post_attention_layernorm.weight",
        "post_ffw_norm.weight" => "post_feedforward_layernorm.weight",
        "ffn_gate_inp.weight" => "mlp.gate.weight",
        "ffn_gate_exps.weight" => return experts("gate_proj.weight"),
        "ffn_up_exps.weight" => return experts("up_proj.weight"),
        "ffn_down_exps.weight" => return experts("down_proj.weight"),
        "ffn_gate.weight" => "mlp.gate_proj.weight",
        "attn_qkv.weight" => "self_attn.qkv_proj.weight",
        "ffn_up.weight" if architecture == Architecture::Phi3 => "mlp.gate_up_proj.weight",
        "ffn_up.weight" => "mlp.up_proj.weight",
        "ffn_down.weight" => "mlp.down_proj.weight",
        "attn_rot_embd" | "attn_rot_embd.weight" | "attn.rot_embd" => return Some(Role::Unused),
        _ => {
            let name = expert_name(part)?;
            return Some(Role::Weight(format!("model.layers.{layer}.mlp.experts.{name}")));
        }
    };
    Some(Role::Weight(format!("model.layers.{layer}.{part}")))
}

/// One expert's weight, as old converters wrote them.
fn expert_name(part: &str) -> Option<String> {
    let (part, index) = part.strip_prefix("ffn_")?.strip_suffix(".weight")?.split_once('.')?;
    let index: usize = index.parse().ok()?;
    matches!(part, "gate" | "up" | "down").then(|| format!("{index}.{part}_proj.weight"))
}
