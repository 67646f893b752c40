//! From the bytes on the wire to the bytes of a JSON body.
//!
//! Promises
//! - Bytes that begin as gzip are gunzipped whatever the headers say; all members of it.
//! - One layer of coding is undone. A name that is not known is refused, never guessed.
//! - Memory is bounded by the limit on the output, however much the input would swell to, and by
//!   8 MiB of zstd window.
//! - A stream that is cut short or damaged gives nothing.
//!
//! Sans-io; called by `ack` with buffers that are kept from request to request.

use std::io::{self, Read};

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;

/// How a body is coded, as its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// No header, or `identity`.
    Identity,
    /// `gzip` or `x-gzip`.
    Gzip,
    /// `deflate`: zlib by the standard, bare deflate by some clients.
    Deflate,
    /// `zstd`.
    Zstd,
}

/// The header names a coding that is not spoken here, or more than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this Content-Encoding is not supported; send gzip, deflate, zstd or none")]
pub(crate) struct UnsupportedCoding;

/// Why a body could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    /// It swells over the limit.
    #[error("the body is larger than {bytes_max} bytes when decompressed")]
    TooLarge { bytes_max: usize },
    /// It is not what the header says, damaged, or cut short.
    #[error("the body is not {coding}, or damaged, or cut short")]
    Broken { coding: &'static str },
}

/// Most of a zstd window: log2 of its bytes.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// What the headers say of the body's coding.
pub(crate) fn coding(headers: &HeaderMap) -> Result<Coding, UnsupportedCoding> {
    let mut lines = headers.get_all(CONTENT_ENCODING).iter();
    let Some(line) = lines.next() else { return Ok(Coding::Identity) };
    if lines.next().is_some() {
        return Err(UnsupportedCoding);
    }
    let name = line.as_bytes().trim_ascii();
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    match () {
        () if name.is_empty() || is("identity") => Ok(Coding::Identity),
        () if is("gzip") || is("x-gzip") => Ok(Coding::Gzip),
        () if is("deflate") => Ok(Coding::Deflate),
        () if is("zstd") => Ok(Coding::Zstd),
        () => Err(UnsupportedCoding),
    }
}

/// Whether these bytes begin a gzip member.
pub(crate) fn looks_like_gzip(body: &[u8]) -> bool {
    body.starts_with(&[0x1F, 0x8B])
}

/// The body itself: as it is, or undone into `buffer`, which is cleared.
pub(crate) fn decode<'a>(
    body: &'a [u8],
    coding: Coding,
    bytes_max: usize,
    buffer: &'a mut Vec<u8>,
) -> Result<&'a [u8], DecodeError> {
    buffer.clear();
    match coding {
        _ if looks_like_gzip(body) => {
            fill(MultiGzDecoder::new(body), "gzip", bytes_max, buffer)?;
        }
        Coding::Identity => return Ok(body),
        Coding::Gzip => return Err(DecodeError::Broken { coding: "gzip" }),
        Coding::Deflate if looks_like_zlib(body) => {
            fill(ZlibDecoder::new(body), "deflate", bytes_max, buffer)?;
        }
        Coding::Deflate => fill(DeflateDecoder::new(body), "deflate", bytes_max, buffer)?,
        Coding::Zstd => fill(zstd_decoder(body)?, "zstd", bytes_max, buffer)?,
    }
    Ok(buffer)
}

/// RFC 1950: method 8 in the low bits, and both bytes together a multiple of 31.
fn looks_like_zlib(body: &[u8]) -> bool {
    matches!(body, [a, b, ..] if a & 0x0F == 8 && (u16::from(*a) << 8 | u16::from(*b)) % 31 == 0)
}

fn zstd_decoder(body: &[u8]) -> Result<impl Read + '_, DecodeError> {
    let broken = |_: io::Error| DecodeError::Broken { coding: "zstd" };
    let mut decoder = zstd::stream::read::Decoder::with_buffer(body).map_err(broken)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(broken)?;
    Ok(decoder)
}

fn fill(
    decoder: impl Read,
    coding: &'static str,
    bytes_max: usize,
    buffer: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    let beyond = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    decoder.take(beyond).read_to_end(buffer).map_err(|_| DecodeError::Broken { coding })?;
    if buffer.len() > bytes_max {
        return Err(DecodeError::TooLarge { bytes_max });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 1 << 20;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn decoded(body: &[u8], coding: Coding) -> Result<Vec<u8>, DecodeError> {
        decode(body, coding, MAX, &mut Vec::new()).map(<[u8]>::to_vec)
    }

    #[test]
    fn gzip_is_told_by_its_first_bytes_and_all_members_are_read() {
        let mut body = gzip(b"one");
        body.extend(gzip(b"two"));
        for coding in [Coding::Identity, Coding::Gzip, Coding::Zstd, Coding::Deflate] {
            assert_eq!(decoded(&body, coding), Ok(b"onetwo".to_vec()), "{coding:?}");
        }
    }

    #[test]
    fn every_coding_that_the_header_names_is_undone() {
        let text = b"{\"batch\":[]}".as_slice();
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(text).unwrap();
        let mut bare = DeflateEncoder::new(Vec::new(), Compression::fast());
        bare.write_all(text).unwrap();
        let zstd = zstd::stream::encode_all(text, 1).unwrap();
        assert_eq!(decoded(text, Coding::Identity).unwrap(), text);
        assert_eq!(decoded(&zlib.finish().unwrap(), Coding::Deflate).unwrap(), text);
        assert_eq!(decoded(&bare.finish().unwrap(), Coding::Deflate).unwrap(), text);
        assert_eq!(decoded(&zstd, Coding::Zstd).unwrap(), text);
    }

    #[test]
    fn a_plain_body_that_says_gzip_is_refused() {
        let broken = Err(DecodeError::Broken { coding: "gzip" });
        assert_eq!(decoded(b"{}", Coding::Gzip), broken);
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let zeros = vec![0; 64 << 20];
        let too_large = DecodeError::TooLarge { bytes_max: MAX };
        let mut buffer = Vec::new();
        let bomb = gzip(&zeros);
        assert_eq!(decode(&bomb, Coding::Gzip, MAX, &mut buffer), Err(too_large));
        assert!(buffer.capacity() <= 4 * MAX, "{}", buffer.capacity());
        let bomb = zstd::stream::encode_all(zeros.as_slice(), 1).unwrap();
        assert_eq!(decode(&bomb, Coding::Zstd, MAX, &mut buffer), Err(too_large));
        assert!(buffer.capacity() <= 4 * MAX, "{}", buffer.capacity());
    }

    #[test]
    fn a_huge_zstd_window_is_refused_before_it_is_allocated() {
        // A frame of window 2^31, one raw block of one byte.
        let frame = [0x28, 0xB5, 0x2F, 0xFD, 0x00, 0xA8, 0x09, 0x00, 0x00, b'x'];
        assert_eq!(decoded(&frame, Coding::Zstd), Err(DecodeError::Broken { coding: "zstd" }));
    }

    #[test]
    fn one_layer_by_one_header_is_taken() {
        let of = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(CONTENT_ENCODING, HeaderValue::from_static(line));
            }
            coding(&headers)
        };
        assert_eq!(of(&[]), Ok(Coding::Identity));
        assert_eq!(of(&["GZip"]), Ok(Coding::Gzip));
        assert_eq!(of(&["br"]), Err(UnsupportedCoding));
        assert_eq!(of(&["gzip, gzip"]), Err(UnsupportedCoding));
        assert_eq!(of(&["gzip", "gzip"]), Err(UnsupportedCoding));
    }

    proptest! {
        #[test]
        fn a_stream_cut_anywhere_gives_nothing(
            text in prop::collection::vec(any::<u8>(), 1..2_000),
            at in any::<prop::sample::Index>(),
        ) {
            let whole = gzip(&text);
            let cut = &whole[..at.index(whole.len())];
            prop_assert!(decoded(cut, Coding::Gzip).is_err());
            let whole = zstd::stream::encode_all(text.as_slice(), 1).unwrap();
            let cut = &whole[..at.index(whole.len() - 1) + 1];
            prop_assert!(decoded(cut, Coding::Zstd).is_err());
        }

        #[test]
        fn hostile_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..400)) {
            for coding in [Coding::Gzip, Coding::Deflate, Coding::Zstd] {
                drop(decoded(&body, coding));
            }
        }
    }
}
