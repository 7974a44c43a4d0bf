//! The rules of one kind that the generic handlers cannot know: defaults, what a create or an update may set,
//! validation, selectable fields and table cells.

use std::sync::Arc;

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::field::ErrorList;
use crate::request::UserInfo;

/// Facts about the request that rules may need.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// Group of the API that was asked: objects may be stored as those of another.
    pub group: &'static str,
    pub namespace: String,
    pub name: String,
    /// Empty, `status`, `scale`, `ephemeralcontainers`, `resize`, `approval`, `finalize`, …
    pub subresource: String,
    /// Sentences for `Warning` headers are added here.
    pub warnings: Vec<String>,
    /// The object exists already.
    pub updating: bool,
    /// Who asks: certificate signing requests record it.
    pub user: UserInfo,
    /// Time of the request; none means the clock's.
    pub now: Option<jiff::Timestamp>,
    /// Pointers of [`Strategy::optional`] that the object lacks; kept by the adapter.
    pub absent: Vec<String>,
}

impl Context {
    /// Time of the request.
    pub fn now(&self) -> jiff::Timestamp {
        self.now.unwrap_or_else(jiff::Timestamp::now)
    }

    /// Whether the object has nothing at `pointer`, one that [`Strategy::optional`] names.
    pub fn lacks(&self, pointer: &str) -> bool {
        self.absent.iter().any(|p| p == pointer)
    }

    /// True for the endpoint of the object itself, not one of its subresources.
    pub fn is_main(&self) -> bool {
        self.subresource.is_empty()
    }

    /// True for the `status` subresource.
    pub fn is_status(&self) -> bool {
        self.subresource == "status"
    }
}

/// Per-kind rules on the typed object, one file per kind under `kinds/`.
///
/// The generic handlers call them in this order. Create: `default`, admission, `prepare_create`, `validate`.
/// Update: `default`, admission, `default`, `prepare_update`, `validate` of the new object, `validate_update`.
pub trait Strategy: Send + Sync + 'static {
    /// The `k8s-openapi` type.
    type Object: Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned + Send;

    /// JSON pointers of fields that the type always has but the object may lack; `*` stands for every item of a
    /// list. They stay out of the object when the client left them out, and [`Context::lacks`] tells `validate`.
    fn optional(&self) -> &'static [&'static str] {
        &[]
    }

    /// Fills what the client left out. Idempotent.
    fn default(&self, _object: &mut Self::Object) {}

    /// Top-level fields that [`Self::default`] reads and fills; none where it is not said.
    fn defaulted(&self) -> Option<&'static [&'static str]> {
        None
    }

    /// Resets what a client may not set on create (status, generation, …).
    fn prepare_create(&self, _cx: &mut Context, _object: &mut Self::Object) {}

    /// Carries over from `old` what this endpoint may not change; for the main endpoint the status, for
    /// `status` everything else; raises `metadata.generation` where the spec changed.
    fn prepare_update(&self, _cx: &mut Context, _object: &mut Self::Object, _old: &Self::Object) {}

    /// Everything wrong with the object but `metadata`, which the generic handlers check.
    fn validate(&self, _cx: &mut Context, _object: &Self::Object) -> ErrorList {
        ErrorList::new()
    }

    /// Everything wrong with the change.
    fn validate_update(&self, _cx: &mut Context, _object: &Self::Object, _old: &Self::Object) -> ErrorList {
        ErrorList::new()
    }
}

/// [`Strategy`] with the type erased: what the generic handlers hold. Objects are JSON values here.
pub trait DynStrategy: Send + Sync + 'static {
    fn default(&self, object: &mut Value) -> Result<(), serde_json::Error>;
    /// [`Self::default`] for what a change made of the stored object `old`: nothing where the change is beside all that
    /// has defaults. Those that came after `old` was written are filled in by [`Self::update`].
    fn default_changed(&self, object: &mut Value, _old: &Value) -> Result<(), serde_json::Error> {
        self.default(object)
    }
    fn prepare_create(&self, cx: &mut Context, object: &mut Value) -> Result<(), serde_json::Error>;
    /// [`Self::prepare_create`], then [`Self::validate`]: what is wrong with the prepared object.
    fn create(&self, cx: &mut Context, object: &mut Value) -> Result<ErrorList, serde_json::Error> {
        self.prepare_create(cx, object)?;
        self.validate(cx, object)
    }
    fn validate(&self, cx: &mut Context, object: &Value) -> Result<ErrorList, serde_json::Error>;
    /// Prepares a changed object and gives it and the old one to `settle`, which may change its metadata; what is wrong
    /// then with the object or the change. `old` is left as it is.
    fn update(
        &self,
        cx: &mut Context,
        object: &mut Value,
        old: &mut Value,
        settle: &mut dyn FnMut(&mut Context, &mut Value, &Value),
    ) -> Result<ErrorList, serde_json::Error>;
}

/// Rules of a kind: static for built-in ones, counted for those of custom resources.
#[derive(Clone)]
pub enum StrategyRef {
    Static(&'static dyn DynStrategy),
    Shared(Arc<dyn DynStrategy>),
}

impl std::ops::Deref for StrategyRef {
    type Target = dyn DynStrategy;
    fn deref(&self) -> &Self::Target {
        match self {
            Self::Static(s) => *s,
            Self::Shared(s) => &**s,
        }
    }
}
