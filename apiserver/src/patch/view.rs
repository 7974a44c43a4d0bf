//! Managed fields of an object that is written through a view of it: the replicas of a workload through its `Scale`.
//!
//! The view shows the entries that own the one field they share, under the view's own version and path; what a write
//! made of them is carried back. Entries that come back new have no time, as upstream has it.

use serde_json::Value;

use super::fields::Set;
use super::managed::{self, Id, Managed, Owned};

/// A field that an object and its view share.
pub struct Shared<'a> {
    /// Where it is in the object: `f:spec`, `f:replicas`.
    pub path: &'a [String],
    /// Where it is in the view.
    pub shown: &'a [String],
    /// `apiVersion` of the object's endpoint.
    pub api_version: &'a str,
    /// That of the view.
    pub view_version: &'a str,
}

impl Shared<'_> {
    fn set(path: &[String]) -> Set {
        let mut set = Set::default();
        set.insert(path);
        set
    }

    fn in_view(&self, id: &Id) -> Id {
        Id::new(&id.manager, id.applied, self.view_version, &id.subresource)
    }

    /// Puts on `view` the entries of `object` that own the field.
    pub fn show(&self, object: &Value, view: &mut Value) {
        let mut shown = Managed::new();
        for (id, owned) in managed::decode(object).unwrap_or_default() {
            if owned.set.has(self.path) {
                let set = Self::set(self.shown);
                let owned = Owned { set, api_version: self.view_version.to_owned(), time: owned.time };
                shown.insert(self.in_view(&id), owned);
            }
        }
        managed::encode(view, &shown);
    }

    /// Carries the entries of `view` back to `object`: who lost the field there loses it here.
    pub fn carry_back(&self, object: &mut Value, view: &Value) {
        let Some(mut written) = managed::decode(view) else { return };
        let field = Self::set(self.path);
        let mut out = Managed::new();
        for (id, mut owned) in managed::decode(object).unwrap_or_default() {
            if owned.set.has(self.path) && written.remove(&self.in_view(&id)).is_none() {
                owned.set.subtract(&field);
                if owned.set.is_empty() {
                    continue;
                }
            }
            out.insert(id, owned);
        }
        for (id, _) in written {
            let id = Id::new(&id.manager, id.applied, self.api_version, &id.subresource);
            let owned = Owned { set: field.clone(), api_version: self.api_version.to_owned(), time: None };
            out.insert(id, owned);
        }
        managed::encode(object, &out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_takes_the_field_in_the_view_has_it_in_the_object() {
        let path = ["f:spec".to_owned(), "f:replicas".to_owned()];
        let shared =
            Shared { path: &path, shown: &path, api_version: "apps/v1", view_version: "autoscaling/v1" };
        let mut object = json!({"metadata": {"managedFields": [
            {"manager": "a", "operation": "Update", "apiVersion": "apps/v1", "fieldsType": "FieldsV1",
             "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:spec": {"f:paused": {}, "f:replicas": {}}}},
            {"manager": "b", "operation": "Update", "apiVersion": "apps/v1", "fieldsType": "FieldsV1",
             "fieldsV1": {"f:spec": {"f:selector": {}}}}]}});
        let mut view = json!({});
        shared.show(&object, &mut view);
        assert_eq!(view["metadata"]["managedFields"][0]["apiVersion"], "autoscaling/v1");
        assert_eq!(view["metadata"]["managedFields"].as_array().unwrap().len(), 1);
        let taken = json!({"metadata": {"managedFields": [
            {"manager": "c", "operation": "Apply", "apiVersion": "autoscaling/v1", "fieldsType": "FieldsV1",
             "time": "2026-01-02T00:00:00Z", "subresource": "scale", "fieldsV1": {"f:spec": {"f:replicas": {}}}}]}});
        shared.carry_back(&mut object, &taken);
        let list = object["metadata"]["managedFields"].as_array().unwrap();
        assert_eq!(list.len(), 3);
        assert_eq!((&list[0]["manager"], &list[0]["apiVersion"]), (&json!("c"), &json!("apps/v1")));
        assert!(list[0].get("time").is_none());
        let a = list.iter().find(|e| e["manager"] == "a").unwrap();
        assert_eq!(a["fieldsV1"], json!({"f:spec": {"f:paused": {}}}));
    }
}
