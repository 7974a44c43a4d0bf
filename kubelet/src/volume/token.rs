//! Service account tokens of projected volumes: requested from the API server bound to the pod, kept until they
//! have used up most of their life.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection},
};
use kube::{Api, Client, api::PostParams};

use crate::pod::spec;

/// Tokens of one pod by audience and lifetime.
#[derive(Default)]
pub struct TokenCache {
    entries: HashMap<(String, i64), Entry>,
}

struct Entry {
    token: String,
    refresh_at: Timestamp,
}

/// Refresh after 80 % of the life, and at least daily.
fn refresh_at(now: Timestamp, expires: Timestamp) -> Timestamp {
    let life = expires.duration_since(now).as_secs().max(1);
    let span = (life * 8 / 10).min(24 * 3600);
    now + std::time::Duration::from_secs(span as u64)
}

impl TokenCache {
    /// When the first token is due for renewal.
    pub fn next_refresh(&self) -> Option<Timestamp> {
        self.entries.values().map(|e| e.refresh_at).min()
    }

    /// A token for the projection: the present one, or a new one.
    pub async fn get(
        &mut self,
        client: &Client,
        pod: &Pod,
        projection: &ServiceAccountTokenProjection,
        now: Timestamp,
    ) -> Result<String, String> {
        let audience = projection.audience.clone().unwrap_or_default();
        let seconds = projection.expiration_seconds.unwrap_or(3600);
        let key = (audience.clone(), seconds);
        if let Some(entry) = self.entries.get(&key)
            && entry.refresh_at > now
        {
            return Ok(entry.token.clone());
        }
        let account = spec::spec(pod).service_account_name.clone().unwrap_or_else(|| "default".into());
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: (!audience.is_empty()).then(|| vec![audience]),
                expiration_seconds: Some(seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
            }),
            ..TokenRequest::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(client.clone(), spec::namespace(pod));
        match api.create_token_request(&account, &PostParams::default(), &request).await {
            Ok(answer) => {
                let status = answer.status.ok_or("the API server answered without a token")?;
                let token = status.token.ok_or("the API server answered without a token")?;
                let expires = status.expiration_timestamp.map_or(now, |t| t.0);
                let refresh = refresh_at(now, expires);
                self.entries.insert(key, Entry { token: token.clone(), refresh_at: refresh });
                Ok(token)
            }
            Err(e) => match self.entries.get(&key) {
                // An old token is better than none: it is good for a while yet.
                Some(old) => {
                    tracing::warn!(pod = spec::key(pod), error = %e, "cannot renew a service account token");
                    Ok(old.token.clone())
                }
                None => Err(format!("failed to fetch token: {e}")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_comes_before_the_end() {
        let at = |s| Timestamp::from_second(s).unwrap();
        assert_eq!(refresh_at(at(0), at(1000)), at(800));
        assert_eq!(refresh_at(at(0), at(31_536_000)), at(86_400));
    }
}
