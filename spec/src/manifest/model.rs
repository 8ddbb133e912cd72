//! The model of a job: a preset, the fields of a `config.json`, or both.

use crate::architecture::Architecture;
use serde::{Deserialize, Serialize};

/// Arithmetic of the linear layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floating point.
    #[default]
    F32,
    /// bfloat16 operands, 32-bit accumulation.
    Bf16,
    /// E4M3 operands with tile and block scales, as in the paper's section 3.3.
    Fp8,
}

impl Precision {
    /// Bytes of an activation and of a moment of the optimizer.
    #[must_use]
    pub const fn activation_bytes(self) -> f64 {
        match self {
            Self::F32 => 4.0,
            Self::Bf16 | Self::Fp8 => 2.0,
        }
    }

    /// Whether the backward pass recomputes norms, up-projections and SwiGLU outputs: in the recipe of the paper (section 3.2.3).
    #[must_use]
    pub const fn recomputes(self) -> bool {
        matches!(self, Self::Fp8)
    }
}

/// The model of a job. At least one of the two fields; `architecture` replaces single fields of the preset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Model {
    /// A model of the proxy ladder, or DeepSeek-V3 itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// Fields of `config.json`, under their names there. All are optional when a preset is given.
    #[serde(default, skip_serializing_if = "ArchitectureFields::is_empty")]
    pub architecture: ArchitectureFields,
}

/// Models that are known by name. The proxies keep the ratios of the full model, so that what is learnt on one tells about the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Preset {
    /// 0.2M parameters, 3 layers of width 64: for tests.
    #[serde(rename = "unit")]
    Unit,
    /// 8M parameters, 4 layers of width 256: minutes on a laptop.
    #[serde(rename = "nano")]
    Nano,
    /// 133M parameters, 8 layers of width 512: hours on a CPU.
    #[serde(rename = "small")]
    Small,
    /// 1.4B parameters, 12 layers of width 1024: one GPU.
    #[serde(rename = "proxy-1b")]
    Proxy1b,
    /// 15.8B parameters, 27 layers of width 2048: one node.
    #[serde(rename = "v2-lite")]
    V2Lite,
    /// DeepSeek-V3: 671B parameters, 61 layers of width 7168.
    #[serde(rename = "v3")]
    V3,
}

/// Some or all fields of `config.json`. Their types are those of [`Architecture`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ArchitectureFields(pub serde_json::Map<String, serde_json::Value>);

impl ArchitectureFields {
    /// Whether no field is given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl schemars::JsonSchema for ArchitectureFields {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ArchitectureFields".into()
    }

    /// The schema of [`Architecture`] with every field optional.
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let mut schema = <Architecture as schemars::JsonSchema>::json_schema(generator);
        schema.remove("required");
        schema.insert("additionalProperties".into(), false.into());
        schema
    }
}
