//! The families of encoders, which differ in the names of their tensors and in where positions
//! begin.

/// A family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::weights) enum EncoderKind {
    Bert,
    Roberta,
    DistilBert,
}

/// The names of a layer's tensors, without `.weight` and `.bias`.
pub(crate) struct LayerNames {
    /// What they begin with, before the layer's number.
    pub(crate) layers: &'static str,
    /// Of queries, keys and values.
    pub(crate) qkv: [&'static str; 3],
    pub(crate) attention_output: &'static str,
    pub(crate) attention_norm: &'static str,
    pub(crate) intermediate: &'static str,
    pub(crate) output: &'static str,
    pub(crate) output_norm: &'static str,
}

const BERT: LayerNames = LayerNames {
    layers: "encoder.layer",
    qkv: ["attention.self.query", "attention.self.key", "attention.self.value"],
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    intermediate: "intermediate.dense",
    output: "output.dense",
    output_norm: "output.LayerNorm",
};

const DISTILBERT: LayerNames = LayerNames {
    layers: "transformer.layer",
    qkv: ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
    attention_output: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    intermediate: "ffn.lin1",
    output: "ffn.lin2",
    output_norm: "output_layer_norm",
};

impl EncoderKind {
    /// The family that an architecture belongs to, and whether it has a classifier's head.
    pub(super) fn of(architecture: &str) -> Option<(Self, bool)> {
        match architecture {
            "BertModel" | "BertForMaskedLM" => Some((Self::Bert, false)),
            "BertForSequenceClassification" => Some((Self::Bert, true)),
            "RobertaModel" | "XLMRobertaModel" => Some((Self::Roberta, false)),
            "RobertaForSequenceClassification" | "XLMRobertaForSequenceClassification" => {
                Some((Self::Roberta, true))
            }
            "DistilBertModel" | "DistilBertForMaskedLM" => Some((Self::DistilBert, false)),
            "DistilBertForSequenceClassification" => Some((Self::DistilBert, true)),
            _ => None,
        }
    }

    /// What the names of tensors begin with where the model has a head.
    pub(in crate::weights) fn prefix(self) -> &'static str {
        match self {
            Self::Bert => "bert.",
            Self::Roberta => "roberta.",
            Self::DistilBert => "distilbert.",
        }
    }

    /// The names of the classifier's two matrices.
    pub(in crate::weights) fn classifier(self) -> [&'static str; 2] {
        match self {
            Self::Bert => ["pooler.dense", "classifier"],
            Self::Roberta => ["classifier.dense", "classifier.out_proj"],
            Self::DistilBert => ["pre_classifier", "classifier"],
        }
    }

    pub(in crate::weights) fn layer_names(self) -> &'static LayerNames {
        match self {
            Self::Bert | Self::Roberta => &BERT,
            Self::DistilBert => &DISTILBERT,
        }
    }

    /// Whether there is a table of token types.
    pub(in crate::weights) fn has_token_types(self) -> bool {
        match self {
            Self::Bert | Self::Roberta => true,
            Self::DistilBert => false,
        }
    }
}
