//! kube-proxy.
