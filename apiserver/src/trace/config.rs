//! `TracingConfiguration` of `apiserver.config.k8s.io`.

use anyhow::{Context as _, bail};
use serde::Deserialize;

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `HOST:PORT` of the collector.
    pub endpoint: String,
    pub sampling_rate_per_million: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    endpoint: Option<String>,
    sampling_rate_per_million: Option<i64>,
}

impl Config {
    /// Reads the file's text.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let f: File = serde_yaml::from_str(text).context("unable to decode tracing configuration data")?;
        let known = ["v1", "v1beta1", "v1alpha1"].map(|v| format!("apiserver.config.k8s.io/{v}"));
        if f.kind != "TracingConfiguration" || !known.contains(&f.api_version) {
            bail!("no kind {:?} is registered for version {:?}", f.kind, f.api_version);
        }
        let rate = f.sampling_rate_per_million.unwrap_or(0);
        let Ok(sampling_rate_per_million) = u32::try_from(rate) else {
            bail!("tracing.samplingRatePerMillion: Invalid value: {rate}: sampling rate must be positive");
        };
        if sampling_rate_per_million > 1_000_000 {
            bail!(
                "tracing.samplingRatePerMillion: Invalid value: {rate}: sampling rate per million must be less than or equal to one million"
            );
        }
        let endpoint = f.endpoint.unwrap_or_else(|| "localhost:4317".to_owned());
        let endpoint =
            endpoint.strip_prefix("dns:///").or(endpoint.strip_prefix("dns:")).unwrap_or(&endpoint);
        if endpoint.contains("://") || !endpoint.contains(':') {
            bail!("tracing.endpoint: Invalid value: {endpoint:?}: want HOST:PORT");
        }
        Ok(Self { endpoint: endpoint.to_owned(), sampling_rate_per_million })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files() {
        let of = |rest: &str| {
            Config::parse(&format!(
                "apiVersion: apiserver.config.k8s.io/v1\nkind: TracingConfiguration\n{rest}"
            ))
        };
        let c = of("").expect("defaults");
        assert_eq!((c.endpoint.as_str(), c.sampling_rate_per_million), ("localhost:4317", 0));
        let c = of("endpoint: collector:5\nsamplingRatePerMillion: 100").expect("a file");
        assert_eq!((c.endpoint.as_str(), c.sampling_rate_per_million), ("collector:5", 100));
        for bad in [
            "samplingRatePerMillion: -1",
            "samplingRatePerMillion: 1000001",
            "endpoint: collector",
            "more: 1",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert!(Config::parse("apiVersion: v1\nkind: TracingConfiguration").is_err());
    }
}
