//! Rules made from services, compared with what they must be, and changes with what they may cost.

mod convert;
mod iptables;
mod nftables;
