//! Images: presence by pull policy, pulls with credentials and back-off, and collection of what nobody uses.

pub mod credentials;
pub mod gc;
pub mod puller;

pub use puller::ImagePuller;
