//! controller-manager.
