//! placeholder
use serde_json::Value;
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}
pub(crate) fn run(_: &Args) -> anyhow::Result<Value> { Ok(Value::Null) }
