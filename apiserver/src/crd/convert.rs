//! Between the versions of a custom resource. Without a webhook only `apiVersion` changes; what the other version's
//! schema does not know is pruned.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;

use super::definition::{Definition, Version};
use super::form::{retyped, text_of, version_in};
use super::schema::meta::Malformed;
use crate::lookup::text;
use crate::registry::object;
use crate::status::{ApiError, ApiResult};

/// Converts objects by asking somebody else.
#[async_trait]
pub trait Converter: Send + Sync {
    /// The objects, none of which has that `apiVersion`, as they are in it, in the same order; checked.
    ///
    /// # Errors
    /// The sentence that clients read.
    async fn convert(&self, objects: Vec<Value>, api_version: &str) -> Result<Vec<Value>, String>;
}

/// `spec.conversion`.
#[derive(Clone)]
pub enum Conversion {
    /// Strategy `None`.
    Retype,
    /// Strategy `Webhook`.
    Webhook(Arc<dyn Converter>),
}

impl Definition {
    /// Brings an object of any version to `to`.
    pub async fn convert(&self, mut o: Value, to: &Version) -> ApiResult<Value> {
        let from = text(&o, "/apiVersion");
        if from == to.api_version {
            return Ok(o);
        }
        if self.of_api_version(from).is_none() {
            let why = format!("request to convert CR from an invalid group/version: {from}");
            return Err(ApiError::internal(why));
        }
        match &self.conversion {
            Conversion::Retype => {
                object::set_type(&mut o, &to.api_version, &self.names.kind);
                self.coerce(&mut o, to)?;
            }
            Conversion::Webhook(c) => {
                let done = c.convert(vec![o], &to.api_version).await.map_err(ApiError::internal)?;
                o = done.into_iter().next().ok_or_else(|| ApiError::internal("no object was converted"))?;
                self.coerce(&mut o, to)?;
            }
        }
        Ok(o)
    }

    fn coerce(&self, o: &mut Value, to: &Version) -> ApiResult<()> {
        to.schema.decode(o, Malformed::Refuse, false).map(|_| ()).map_err(ApiError::internal)
    }

    /// Texts of objects as they are in `to`. Those that are in it already, and all where both versions have the same
    /// schema, are copied; webhooks are asked once for all.
    pub async fn present(&self, texts: Vec<Bytes>, to: &Version) -> ApiResult<Vec<Bytes>> {
        let Conversion::Webhook(webhook) = &self.conversion else {
            return texts.into_iter().map(|t| self.retype(t, to)).collect();
        };
        let foreign = |t: &Bytes| version_in(self, t).is_none_or(|v| v.name != to.name);
        let asked: Vec<Value> =
            texts.iter().filter(|t| foreign(t)).map(|t| parse(t)).collect::<ApiResult<_>>()?;
        if asked.is_empty() {
            return Ok(texts);
        }
        let mut done = webhook.convert(asked, &to.api_version).await.map_err(ApiError::internal)?.into_iter();
        let mut out = Vec::with_capacity(texts.len());
        for t in texts {
            if !foreign(&t) {
                out.push(t);
                continue;
            }
            let mut o = done.next().ok_or_else(|| ApiError::internal("too few objects were converted"))?;
            self.coerce(&mut o, to)?;
            out.push(text_of(&o));
        }
        Ok(out)
    }

    fn retype(&self, t: Bytes, to: &Version) -> ApiResult<Bytes> {
        match version_in(self, &t) {
            Some(from) if from.name == to.name => return Ok(t),
            Some(from) if from.same_fields(to) => {
                if let Some(t) = retyped(&t, &to.api_version) {
                    return Ok(t);
                }
            }
            _ => {}
        }
        let mut o = parse(&t)?;
        object::set_type(&mut o, &to.api_version, &self.names.kind);
        self.coerce(&mut o, to)?;
        Ok(text_of(&o))
    }
}

fn parse(t: &[u8]) -> ApiResult<Value> {
    serde_json::from_slice(t).map_err(|e| ApiError::internal(format!("an object cannot be read: {e}")))
}
