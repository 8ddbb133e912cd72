//! `fathom schema`.

use crate::failure::{Exit, Failure, Result};
use crate::output;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the OpenAPI description of the REST API instead
    #[arg(long)]
    api: bool,
    /// Print the CustomResourceDefinition of a job instead, for `kubectl apply -f -`
    #[arg(long, conflicts_with = "api")]
    crd: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result {
    if args.api {
        let text = fathom_api::openapi().to_pretty_json();
        return output::stdout(&text.map_err(|error| Failure::new(Exit::Failed, "cannot write JSON").caused_by(&error))?);
    }
    if args.crd {
        let yaml = serde_saphyr::to_string(fathom_spec::crd::custom_resource_definition());
        return output::stdout(&yaml.map_err(|error| Failure::new(Exit::Failed, "cannot write YAML").caused_by(&error))?);
    }
    output::stdout(&output::json(&fathom_spec::schema::json_schema())?)
}
