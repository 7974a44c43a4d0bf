//! `ctl describe`: an object for people, with what happened to it.

use super::args::{Files, Select, find};
use crate::api::resources::{Catalog, text};
use crate::api::rest::{Rest, query};
use crate::print::describe;
use crate::print::format::items;

#[derive(Debug, clap::Args)]
pub struct Describe {
    /// TYPE [NAME…], or TYPE/NAME…
    words: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    select: Select,
    /// Show the object's events
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    show_events: bool,
}

impl Describe {
    pub async fn run(self, rest: &Rest) -> anyhow::Result<()> {
        let catalog = Catalog::fetch(rest).await?;
        let found = find(rest, &catalog, &self.files, &self.words, &self.select, true).await?;
        if found.is_empty() {
            eprintln!("No resources found in {} namespace.", rest.namespace);
        }
        let mut first = true;
        for f in found {
            if !std::mem::take(&mut first) {
                println!("\n");
            }
            let mut related = describe::Related::default();
            if self.show_events {
                let selector = format!("involvedObject.uid={}", text(&f.object["metadata"]["uid"]));
                let namespace =
                    f.namespace.as_deref().map(|n| format!("/namespaces/{n}")).unwrap_or_default();
                let path = format!("/api/v1{namespace}/events?fieldSelector={}", query(&selector));
                related.events = Some(items(&rest.get(&path).await?));
            }
            match f.resource.kind.as_str() {
                "Service" => {
                    let namespace = f.namespace.as_deref().unwrap_or_default();
                    let selector = query(&format!("kubernetes.io/service-name={}", f.name));
                    let path = format!(
                        "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?labelSelector={selector}"
                    );
                    related.others = items(&rest.get(&path).await?);
                }
                "Node" => {
                    let path =
                        format!("/api/v1/pods?fieldSelector={}", query(&format!("spec.nodeName={}", f.name)));
                    related.others = items(&rest.get(&path).await?);
                }
                "Deployment" => {
                    let namespace = f.namespace.as_deref().unwrap_or_default();
                    let all =
                        items(&rest.get(&format!("/apis/apps/v1/namespaces/{namespace}/replicasets")).await?);
                    let uid = &f.object["metadata"]["uid"];
                    let owned = |o: &serde_json::Value| {
                        crate::api::resources::array(&o["metadata"]["ownerReferences"])
                            .iter()
                            .any(|r| r["uid"] == *uid)
                    };
                    related.others = all.into_iter().filter(owned).collect();
                }
                _ => {}
            }
            print!("{}", describe::describe(&f.object, &related));
        }
        Ok(())
    }
}
