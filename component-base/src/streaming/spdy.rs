//! The part of SPDY/3.1 that a client of a container runtime needs: opening streams, sending and receiving data,
//! answering pings. Neither side uses flow control, as in every implementation in this field.
//!
//! Source: "SPDY Protocol - Draft 3.1". Pure: bytes in, frames out.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// What the peer sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// A piece of a stream, the last one with `fin`.
    Data { stream: u32, data: Bytes, fin: bool },
    /// The peer accepted a stream, or will send no more on it.
    Reply { stream: u32, fin: bool },
    /// A stream ended before its time.
    Reset { stream: u32 },
    /// Wants [`pong`].
    Ping { id: u32 },
    /// Nothing more will come.
    GoAway,
    /// Nothing that matters here (settings, windows, headers).
    Other,
}

/// The peer broke the protocol.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// So many bytes.
    #[error("SPDY frame of {0} bytes; the most is {MAX_FRAME}")]
    TooLarge(usize),
    /// A frame of this type lacks what it must have.
    #[error("SPDY frame of type {0} is too short")]
    Short(u16),
}

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const FLAG_FIN: u8 = 1;
/// Frames beyond this are taken for garbage.
const MAX_FRAME: usize = 4 << 20;

/// Takes the first whole frame off `input`; none where there is no whole one.
///
/// # Errors
/// Nothing that follows can be read, either.
pub fn read(input: &mut BytesMut) -> Result<Option<Frame>, Broken> {
    if input.len() < 8 {
        return Ok(None);
    }
    let word = u32::from_be_bytes([input[0], input[1], input[2], input[3]]);
    let flags = input[4];
    let length = u32::from_be_bytes([0, input[5], input[6], input[7]]) as usize;
    if length > MAX_FRAME {
        return Err(Broken::TooLarge(length));
    }
    if input.len() < 8 + length {
        input.reserve(8 + length - input.len());
        return Ok(None);
    }
    input.advance(8);
    let mut payload = input.split_to(length).freeze();
    let fin = flags & FLAG_FIN != 0;
    if word >> 31 == 0 {
        return Ok(Some(Frame::Data { stream: word, data: payload, fin }));
    }
    let kind = (word & 0xffff) as u16;
    if !matches!(kind, SYN_REPLY | RST_STREAM | PING | GOAWAY | HEADERS) {
        return Ok(Some(Frame::Other));
    }
    if payload.len() < 4 {
        return Err(Broken::Short(kind));
    }
    let id = payload.get_u32();
    Ok(Some(match kind {
        SYN_REPLY | HEADERS => Frame::Reply { stream: id & 0x7fff_ffff, fin },
        RST_STREAM => Frame::Reset { stream: id & 0x7fff_ffff },
        PING => Frame::Ping { id },
        _ => Frame::GoAway,
    }))
}

/// Writes frames; header blocks share one compression state, so one writer serves a whole connection.
#[derive(Debug, Default)]
pub struct Writer {
    started: bool,
}

impl Writer {
    /// Opens `stream` (odd, rising) with one header.
    pub fn open(&mut self, stream: u32, name: &str, value: &str, out: &mut BytesMut) {
        let mut block = BytesMut::new();
        block.put_u32(1);
        for text in [name.to_ascii_lowercase().as_str(), value] {
            block.put_u32(text.len() as u32);
            block.put_slice(text.as_bytes());
        }
        let compressed = self.compress(&block);
        control(SYN_STREAM, 10 + compressed.len(), out);
        out.put_u32(stream);
        out.put_u32(0);
        out.put_u16(0);
        out.put_slice(&compressed);
    }

    /// A zlib stream may hold its data uncompressed ("stored" blocks): a few bytes more, and no compressor.
    fn compress(&mut self, block: &[u8]) -> Vec<u8> {
        let mut z = Vec::with_capacity(block.len() + 16);
        if !self.started {
            self.started = true;
            // Deflate with a 32 KiB window and a preset dictionary, then the dictionary's checksum.
            z.extend([0x78, 0xbb]);
            z.extend(DICTIONARY_ADLER32.to_be_bytes());
        }
        let length = block.len() as u16;
        z.push(0);
        z.extend(length.to_le_bytes());
        z.extend((!length).to_le_bytes());
        z.extend(block);
        // An empty block: the flush after which peers hand out what they have.
        z.extend([0, 0, 0, 0xff, 0xff]);
        z
    }
}

/// Adler-32 of the header dictionary of SPDY 3, which identifies it to the peer.
const DICTIONARY_ADLER32: u32 = 0xe3c6_a7c2;

/// A data frame; `fin` ends our side of the stream.
pub fn data(stream: u32, data: &[u8], fin: bool, out: &mut BytesMut) {
    out.put_u32(stream);
    out.put_u32((u32::from(if fin { FLAG_FIN } else { 0 }) << 24) | data.len() as u32);
    out.put_slice(data);
}

/// The answer to a ping.
pub fn pong(id: u32, out: &mut BytesMut) {
    control(PING, 4, out);
    out.put_u32(id);
}

fn control(kind: u16, length: usize, out: &mut BytesMut) {
    out.put_u16(0x8003);
    out.put_u16(kind);
    out.put_u32(length as u32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let mut wire = BytesMut::new();
        data(3, b"hello", false, &mut wire);
        data(3, b"", true, &mut wire);
        pong(2, &mut wire);
        let (mut input, mut frames) = (BytesMut::new(), Vec::new());
        for byte in wire {
            input.put_u8(byte);
            frames.extend(read(&mut input).unwrap());
        }
        assert_eq!(
            frames,
            [
                Frame::Data { stream: 3, data: Bytes::from_static(b"hello"), fin: false },
                Frame::Data { stream: 3, data: Bytes::new(), fin: true },
                Frame::Ping { id: 2 },
            ]
        );
    }

    #[test]
    fn an_absurd_length_is_refused() {
        let mut input = BytesMut::from(&[0u8, 0, 0, 1, 0, 0xff, 0xff, 0xff][..]);
        assert!(matches!(read(&mut input), Err(Broken::TooLarge(_))));
    }

    #[test]
    fn an_opened_stream_carries_its_header_in_a_zlib_stream() {
        let (mut w, mut out) = (Writer::default(), BytesMut::new());
        w.open(1, "streamType", "stdin", &mut out);
        let zlib = &out[18..];
        // CMF and FLG must be a multiple of 31 with the dictionary bit set (RFC 1950).
        assert_eq!(u16::from_be_bytes([zlib[0], zlib[1]]) % 31, 0);
        assert_ne!(zlib[1] & 0x20, 0);
        let mut plain = Vec::new();
        let mut inflate = flate2::Decompress::new(false);
        plain.reserve(256);
        inflate.decompress_vec(&zlib[6..], &mut plain, flate2::FlushDecompress::Sync).unwrap();
        assert_eq!(&plain[..], b"\0\0\0\x01\0\0\0\x0astreamtype\0\0\0\x05stdin");
    }
}
