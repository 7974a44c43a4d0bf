//! When a container's start may be called off.
//!
//! A pod that is to stop waits for no image and no hook. What the runtime has begun it ends: a call that is broken off
//! leaves a container that could not be started, for no reason of its own, and the pod's status would say so.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// Between one start and whoever stops the pod. Each says what it is about to do before it looks at what the other has
/// said, so that at least one of them sees the other.
#[derive(Default)]
pub struct Gate {
    at_runtime: AtomicBool,
    called_off: AtomicBool,
}

impl Gate {
    /// The runtime's turn comes. Does not return if the start is called off: whoever did that ends the task.
    pub async fn enter(&self) {
        self.at_runtime.store(true, SeqCst);
        if self.called_off.load(SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    /// The runtime is done. False if the start was called off meanwhile: nothing more is to be done.
    #[must_use]
    pub fn leave(&self) -> bool {
        self.at_runtime.store(false, SeqCst);
        !self.called_off.load(SeqCst)
    }

    /// Calls the start off. True if its task may be ended right now; otherwise it ends soon by itself.
    #[must_use]
    pub fn call_off(&self) -> bool {
        self.called_off.store(true, SeqCst);
        !self.at_runtime.load(SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_runtime_is_not_interrupted() {
        let gate = Gate::default();
        gate.enter().await;
        assert!(!gate.call_off());
        assert!(!gate.leave(), "no hook any more");
        assert!(gate.call_off());
    }

    #[tokio::test]
    async fn before_and_after_the_runtime_the_task_is_ended() {
        let gate = Gate::default();
        assert!(gate.call_off());
        let entered = tokio::time::timeout(std::time::Duration::from_millis(20), gate.enter()).await;
        assert!(entered.is_err(), "nothing is begun any more");
        let gate = Gate::default();
        gate.enter().await;
        assert!(gate.leave());
        assert!(gate.call_off());
    }
}
