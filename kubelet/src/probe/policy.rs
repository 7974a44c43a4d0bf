//! When a probe's outcome counts: thresholds over consecutive outcomes. Pure.

/// Which of the three a probe is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl Kind {
    /// Upstream's word, as it begins event messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// Counts outcomes and tells when the verdict changes.
#[derive(Clone, Debug)]
pub struct Threshold {
    success: i32,
    failure: i32,
    last: Option<bool>,
    run: i32,
}

impl Threshold {
    pub fn new(success: Option<i32>, failure: Option<i32>) -> Self {
        Self {
            success: success.unwrap_or(1).max(1),
            failure: failure.unwrap_or(3).max(1),
            last: None,
            run: 0,
        }
    }

    /// Takes one outcome; the verdict, once enough outcomes in a row agree.
    pub fn observe(&mut self, ok: bool) -> Option<bool> {
        if self.last == Some(ok) {
            self.run += 1;
        } else {
            self.last = Some(ok);
            self.run = 1;
        }
        (self.run >= if ok { self.success } else { self.failure }).then_some(ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_runs() {
        let mut t = Threshold::new(Some(2), Some(3));
        let seen: Vec<_> =
            [false, false, true, false, false, false, false, true, true].map(|o| t.observe(o)).into();
        let f = Some(false);
        assert_eq!(seen, [None, None, None, None, None, f, f, None, Some(true)]);
    }
}
