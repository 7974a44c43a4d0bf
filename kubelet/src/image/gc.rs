//! Image collection: when the image file system is fuller than the high threshold, unused images go, oldest
//! unused first, until the low threshold is reached. The choice is pure.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_cri::v1::Image;

use crate::cri::Cri;

/// When each image was first seen and last in use.
#[derive(Default)]
pub struct Usage {
    seen: HashMap<String, (Timestamp, Timestamp)>,
}

pub struct Policy {
    pub high_percent: u8,
    pub low_percent: u8,
    pub min_age: Duration,
}

/// Bytes to free so that usage falls to the low threshold; zero below the high one.
pub fn to_free(policy: &Policy, capacity: u64, available: u64) -> u64 {
    if capacity == 0 {
        return 0;
    }
    let used = capacity.saturating_sub(available);
    if used * 100 < u64::from(policy.high_percent) * capacity {
        return 0;
    }
    used.saturating_sub(capacity * u64::from(policy.low_percent) / 100)
}

impl Usage {
    /// Takes note of the present images and which are in use (by id, tag or digest).
    pub fn observe(&mut self, images: &[Image], in_use: &HashSet<String>, now: Timestamp) {
        self.seen.retain(|id, _| images.iter().any(|i| i.id == *id));
        for i in images {
            let entry = self.seen.entry(i.id.clone()).or_insert((now, Timestamp::UNIX_EPOCH));
            if used(i, in_use) {
                entry.1 = now;
            }
        }
    }

    /// Images to remove for `bytes`, in order.
    pub fn choose<'a>(
        &self,
        images: &'a [Image],
        in_use: &HashSet<String>,
        policy: &Policy,
        bytes: u64,
        now: Timestamp,
    ) -> Vec<&'a Image> {
        let mut idle: Vec<(Timestamp, Timestamp, &Image)> = images
            .iter()
            .filter(|i| !i.pinned && !used(i, in_use))
            .filter_map(|i| self.seen.get(&i.id).map(|(first, last)| (*last, *first, i)))
            .filter(|(_, first, _)| now.duration_since(*first).unsigned_abs() >= policy.min_age)
            .collect();
        idle.sort_by_key(|(last, first, _)| (*last, *first));
        let mut freed = 0;
        let mut out = Vec::new();
        for (_, _, image) in idle {
            if freed >= bytes {
                break;
            }
            freed += image.size;
            out.push(image);
        }
        out
    }
}

fn used(i: &Image, in_use: &HashSet<String>) -> bool {
    in_use.contains(&i.id)
        || i.repo_tags.iter().any(|t| in_use.contains(t))
        || i.repo_digests.iter().any(|d| in_use.contains(d))
}

/// One round. `disk` is (capacity, available) of the image file system.
pub async fn collect(cri: &Cri, usage: &mut Usage, policy: &Policy, disk: (u64, u64)) -> anyhow::Result<u64> {
    let (images, containers) = tokio::try_join!(cri.list_images(), cri.list_containers(None))?;
    let mut in_use = HashSet::new();
    for c in containers {
        in_use.insert(c.image_ref);
        if let Some(i) = c.image {
            in_use.insert(i.image);
        }
    }
    // Runtimes before pinned images do not say that they need their sandbox image: no container uses it.
    if let Some(name) = cri.sandbox_image().await
        && let Some(image) = cri.image_status(&name).await?
    {
        in_use.insert(image.id);
    }
    let now = Timestamp::now();
    usage.observe(&images, &in_use, now);
    let bytes = to_free(policy, disk.0, disk.1);
    let mut freed = 0;
    if bytes > 0 {
        for image in usage.choose(&images, &in_use, policy, bytes, now) {
            tracing::info!(
                image = image.id,
                size = image.size,
                "removing an unused image to free disk space"
            );
            cri.remove_image(&image.id).await?;
            freed += image.size;
        }
        if freed < bytes {
            anyhow::bail!(
                "Failed to garbage collect required amount of images. Attempted to free {bytes} bytes, but only found {freed} bytes eligible to free."
            );
        }
    }
    Ok(freed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_unused_first() {
        let p = Policy { high_percent: 85, low_percent: 80, min_age: Duration::from_secs(60) };
        assert_eq!(to_free(&p, 1000, 200), 0);
        assert_eq!(to_free(&p, 1000, 100), 100);
        let image = |id: &str| Image { id: id.into(), size: 60, ..Image::default() };
        let images = [image("a"), image("b"), image("c"), Image { pinned: true, ..image("p") }];
        let at = |s| Timestamp::from_second(s).unwrap();
        let mut u = Usage::default();
        let set = |ids: &[&str]| ids.iter().map(|s| (*s).to_owned()).collect::<HashSet<_>>();
        u.observe(&images, &set(&["a", "b"]), at(5));
        u.observe(&images, &set(&["a"]), at(10));
        u.observe(&images, &set(&[]), at(20));
        let ids = |bytes| -> Vec<&str> {
            u.choose(&images, &set(&[]), &p, bytes, at(100)).into_iter().map(|i| i.id.as_str()).collect()
        };
        assert_eq!(ids(100), ["c", "b"]);
        assert!(u.choose(&images, &set(&[]), &p, 100, at(30)).is_empty(), "too young");
    }
}
