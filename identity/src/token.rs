//! Join tokens: what a workload shows the certificate authority where there is no Kubernetes to vouch for it.
//!
//! A JWT (RFC 7519), ES256 and nothing else, whose subject is the SPIFFE id, for one audience and ten minutes.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::{Deserialize, Serialize};

use crate::file::{create_private, create_private_directory, read_limited, write_private};
use crate::spiffe_id::SpiffeId;

/// How long a join token can be used.
pub const JOIN_TOKEN_LIFETIME: Duration = Duration::from_secs(10 * 60);

/// Signs join tokens.
pub struct TokenSigner {
    key: EncodingKey,
    pair: KeyPair,
    audience: String,
}

impl TokenSigner {
    /// A new key. `audience` is the one the verifier expects.
    pub fn create(audience: &str) -> Result<Self, TokenKeyError> {
        Self::of(KeyPair::generate().map_err(|_| TokenKeyError::Key)?, audience)
    }

    /// The key of a PEM file (PKCS #8, P-256).
    pub fn from_pem(pem: &str, audience: &str) -> Result<Self, TokenKeyError> {
        Self::of(KeyPair::from_pem(pem).map_err(|_| TokenKeyError::Key)?, audience)
    }

    /// The key in `directory`, made there if there is none: `token.key`, and `token.pub` for verifiers.
    pub fn load_or_create(directory: &Path, audience: &str) -> Result<Self, TokenKeyError> {
        let path = directory.join(KEY_FILE);
        create_private_directory(directory)
            .map_err(|source| TokenKeyError::File { path: directory.to_owned(), source })?;
        let signer = match read_text(&path) {
            Ok(pem) => Self::from_pem(&pem, audience)?,
            Err(TokenKeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let signer = Self::create(audience)?;
                let created = create_private(&path, signer.pair.serialize_pem().as_bytes(), 0o600)
                    .map_err(|source| TokenKeyError::File { path: path.clone(), source })?;
                // Another process was quicker: its key is the one.
                if created { signer } else { Self::from_pem(&read_text(&path)?, audience)? }
            }
            Err(error) => return Err(error),
        };
        let public = directory.join(PUBLIC_FILE);
        if read_text(&public).ok().as_deref() != Some(signer.public_key_pem().as_str()) {
            write(&public, &signer.public_key_pem(), 0o644)?;
        }
        Ok(signer)
    }

    /// A token for `id`, good for [`JOIN_TOKEN_LIFETIME`] from `now`.
    pub fn sign(&self, id: &SpiffeId, now: SystemTime) -> Result<String, TokenKeyError> {
        self.sign_for(id, JOIN_TOKEN_LIFETIME, now)
    }

    /// A token with a life of its own, for machines that join once and far from the key.
    pub fn sign_for(&self, id: &SpiffeId, lifetime: Duration, now: SystemTime) -> Result<String, TokenKeyError> {
        let issued = seconds(now);
        let claims = Claims {
            sub: id.to_string(),
            aud: self.audience.clone(),
            iat: issued,
            exp: issued.saturating_add(lifetime.as_secs()),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.key).map_err(|_| TokenKeyError::Key)
    }

    /// What a verifier needs, PEM.
    pub fn public_key_pem(&self) -> String {
        self.pair.public_key_pem()
    }

    /// A verifier of this signer's tokens.
    pub fn verifier(&self) -> Result<TokenVerifier, TokenKeyError> {
        TokenVerifier::from_pem(&self.public_key_pem(), &self.audience)
    }

    fn of(pair: KeyPair, audience: &str) -> Result<Self, TokenKeyError> {
        if pair.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(TokenKeyError::Key);
        }
        let key = EncodingKey::from_ec_der(&pair.serialize_der());
        Ok(Self { key, pair, audience: audience.to_owned() })
    }
}

impl fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSigner").field("audience", &self.audience).finish_non_exhaustive()
    }
}

/// Checks join tokens.
pub struct TokenVerifier {
    key: DecodingKey,
    validation: Validation,
}

impl TokenVerifier {
    /// Verifies with a public key in PEM, for one audience.
    pub fn from_pem(pem: &str, audience: &str) -> Result<Self, TokenKeyError> {
        let key = DecodingKey::from_ec_pem(pem.as_bytes()).map_err(|_| TokenKeyError::Key)?;
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "aud", "sub"]);
        // Checked below, against the caller's clock and without leeway.
        validation.validate_exp = false;
        Ok(Self { key, validation })
    }

    /// Verifies with a public key file, or with `token.pub` of a directory.
    pub fn load(path: &Path, audience: &str) -> Result<Self, TokenKeyError> {
        let path = if path.is_dir() { path.join(PUBLIC_FILE) } else { path.to_owned() };
        Self::from_pem(&read_text(&path)?, audience)
    }

    /// Who the token's bearer is.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<SpiffeId, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Malformed);
        }
        let claims = jsonwebtoken::decode::<Claims>(token.trim_ascii(), &self.key, &self.validation)
            .map_err(|error| match error.kind() {
                ErrorKind::InvalidSignature => TokenError::ForeignKey,
                ErrorKind::InvalidAudience => TokenError::WrongAudience,
                _ => TokenError::Malformed,
            })?
            .claims;
        if claims.exp <= seconds(now) {
            return Err(TokenError::Expired);
        }
        claims.sub.parse().map_err(|_| TokenError::Subject)
    }
}

impl fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenVerifier").finish_non_exhaustive()
    }
}

/// Why a token proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Past its `exp`.
    #[error("the token has expired: write a new one")]
    Expired,
    /// Signed by a key that is not the verifier's.
    #[error("the token was signed by another key")]
    ForeignKey,
    /// Meant for somebody else.
    #[error("the token is for another audience")]
    WrongAudience,
    /// Not an ES256 JWT with the claims it needs.
    #[error("the token is not a valid join token")]
    Malformed,
    /// Its subject is not the SPIFFE id of a workload.
    #[error("the token's subject is not the SPIFFE id of a workload")]
    Subject,
}

/// Why a key for tokens can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeyError {
    /// The file can't be read or written.
    #[error("cannot use {path} for the key of join tokens: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not a P-256 key in PEM.
    #[error("the token key is not a P-256 key in PEM (PKCS #8 for signing, SubjectPublicKeyInfo for verifying)")]
    Key,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: String,
    aud: String,
    #[serde(default)]
    iat: u64,
    exp: u64,
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn read_text(path: &Path) -> Result<String, TokenKeyError> {
    read_limited(path, MAX_KEY_BYTES)
        .and_then(|bytes| String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not text")))
        .map_err(|source| TokenKeyError::File { path: path.to_owned(), source })
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), TokenKeyError> {
    write_private(path, text.as_bytes(), mode).map_err(|source| TokenKeyError::File { path: path.to_owned(), source })
}

const KEY_FILE: &str = "token.key";
const PUBLIC_FILE: &str = "token.pub";
const MAX_KEY_BYTES: usize = 64 << 10;
const MAX_TOKEN_BYTES: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;
    use crate::issuer::tests::{id, now};

    #[test]
    fn good_for_ten_minutes() {
        let signer = TokenSigner::create("ca").unwrap();
        let verifier = signer.verifier().unwrap();
        let token = signer.sign(&id("cart"), now()).unwrap();
        let almost = now() + JOIN_TOKEN_LIFETIME - Duration::from_secs(1);
        assert_eq!(verifier.verify(&format!("{token}\n"), almost), Ok(id("cart")));
        assert_eq!(verifier.verify(&token, now() + JOIN_TOKEN_LIFETIME), Err(TokenError::Expired));
    }

    #[test]
    fn refusals() {
        let signer = TokenSigner::create("ca").unwrap();
        let verifier = signer.verifier().unwrap();
        let foreign = TokenSigner::create("ca").unwrap().sign(&id("cart"), now()).unwrap();
        assert_eq!(verifier.verify(&foreign, now()), Err(TokenError::ForeignKey));
        let elsewhere = TokenSigner::from_pem(&signer.pair.serialize_pem(), "vault").unwrap();
        let token = elsewhere.sign(&id("cart"), now()).unwrap();
        assert_eq!(verifier.verify(&token, now()), Err(TokenError::WrongAudience));
        for text in ["", "a.b.c", "....", &"x".repeat(20_000)] {
            assert_eq!(verifier.verify(text, now()), Err(TokenError::Malformed), "{text:.20}");
        }
    }

    #[test]
    fn no_other_algorithm() {
        let signer = TokenSigner::create("ca").unwrap();
        let verifier = signer.verifier().unwrap();
        let token = signer.sign(&id("cart"), now()).unwrap();
        let (_, rest) = token.split_once('.').unwrap();
        let claims = rest.split_once('.').unwrap().0;
        let unsigned = format!("{}.{claims}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#));
        assert_eq!(verifier.verify(&unsigned, now()), Err(TokenError::Malformed));
        // The public key as an HMAC secret.
        let secret = EncodingKey::from_secret(signer.public_key_pem().as_bytes());
        let claims = Claims { sub: id("cart").to_string(), aud: "ca".into(), iat: 0, exp: u64::MAX };
        let confused = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &secret).unwrap();
        assert_eq!(verifier.verify(&confused, now()), Err(TokenError::Malformed));
    }

    #[test]
    fn kept_in_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let first = TokenSigner::load_or_create(directory.path(), "ca").unwrap();
        let token = first.sign(&id("cart"), now()).unwrap();
        let second = TokenSigner::load_or_create(directory.path(), "ca").unwrap();
        assert_eq!(second.public_key_pem(), first.public_key_pem());
        let verifier = TokenVerifier::load(directory.path(), "ca").unwrap();
        assert_eq!(verifier.verify(&token, now()), Ok(id("cart")));
    }
}
