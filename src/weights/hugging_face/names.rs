//! The names under which a decoder's tensors are known, of those that architectures give them.

/// What to call a tensor. `None`: it is of a part that sees images, and text is computed without it.
pub(super) fn known(name: &str, is_multimodal: bool) -> Option<String> {
    if !is_multimodal {
        return Some(experts(name));
    }
    let name = name.strip_prefix("model.").unwrap_or(name);
    if name.starts_with("vision_tower.") || name.starts_with("multi_modal_projector.") {
        return None;
    }
    let name = name.strip_prefix("language_model.").unwrap_or(name);
    let is_whole = name.starts_with("model.") || name.starts_with("lm_head.");
    Some(if is_whole { name.to_owned() } else { format!("model.{name}") })
}

/// Mixtral's experts as others name theirs.
fn experts(name: &str) -> String {
    let Some((layer, part)) = name.split_once(".block_sparse_moe.") else { return name.to_owned() };
    let part = part.replace(".w1.", ".gate_proj.").replace(".w3.", ".up_proj.");
    format!("{layer}.mlp.{}", part.replace(".w2.", ".down_proj."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_a_decoder_alone() {
        let layer = "layers.0.mlp.down_proj.weight";
        for name in
            [format!("language_model.model.{layer}"), format!("model.language_model.{layer}")]
        {
            assert_eq!(known(&name, true), Some(format!("model.{layer}")));
        }
        assert_eq!(known("lm_head.weight", true).as_deref(), Some("lm_head.weight"));
        assert_eq!(known("model.vision_tower.x.weight", true), None);
        assert_eq!(known("vision_tower.x.weight", false).as_deref(), Some("vision_tower.x.weight"));
        assert_eq!(
            known("model.layers.3.block_sparse_moe.experts.7.w2.weight", false).as_deref(),
            Some("model.layers.3.mlp.experts.7.down_proj.weight")
        );
        assert_eq!(
            known("model.layers.3.block_sparse_moe.gate.weight", false).as_deref(),
            Some("model.layers.3.mlp.gate.weight")
        );
    }
}
