//! Metrics, health, logs and the files in `ops/`.

pub mod call_metrics;
pub mod operator_files;
pub mod operators;
pub mod request_ids;
