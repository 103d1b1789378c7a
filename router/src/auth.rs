//! Who makes a request. One extractor for every place that a key can be sent in, and one check.

mod keyring;

use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::{AUTHORIZATION, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};

use crate::app::{ANONYMOUS, Principal, Scope, Urgency};
use crate::error::refusal::Refusal;
use crate::keys::{Key, Keys, Pepper};
use keyring::Keyring;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Decides who a request comes from. Cheap to clone.
#[derive(Clone)]
pub struct Authenticator(Arc<Mode>);

/// What became of a key.
pub(crate) enum Holder {
    /// It is good.
    Active(Principal),
    /// It was revoked.
    Revoked,
    /// It is not known here, or not yet.
    Unknown,
}

enum Mode {
    /// Everyone is the same anonymous principal.
    Open(Principal),
    Keys(Keyring),
}

impl Authenticator {
    /// Lets everyone in, and ask for so much.
    pub fn open(scope: Scope) -> Self {
        let cache_salt = Pepper::ephemeral().cache_salt(ANONYMOUS);
        let urgency = Urgency::Interactive;
        let key_id = ANONYMOUS.into();
        Self(Arc::new(Mode::Open(Principal { key_id, scope, cache_salt, urgency })))
    }

    /// Lets the holders of keys in. Reads the keys, and follows their changes from then on.
    pub async fn with_keys(keys: Keys) -> Result<Self, crate::keys::Error> {
        Ok(Self(Arc::new(Mode::Keys(Keyring::load(keys).await?))))
    }

    /// Keys that would be let in now; nothing when none is needed.
    pub fn num_active_keys(&self) -> Option<usize> {
        match &*self.0 {
            Mode::Open(_) => None,
            Mode::Keys(keyring) => Some(keyring.num_active()),
        }
    }

    /// Who has the key of this id, for what goes on without a request. Where no key is needed, everyone
    /// may.
    pub(crate) fn holder(&self, id: &str) -> Holder {
        match &*self.0 {
            Mode::Open(anonymous) => {
                Holder::Active(Principal { key_id: id.into(), ..anonymous.clone() })
            }
            Mode::Keys(keyring) => keyring.holder(id),
        }
    }

    /// The principal of a request with these headers.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<Principal, Refusal> {
        match &*self.0 {
            Mode::Open(anonymous) => Ok(anonymous.clone()),
            Mode::Keys(keyring) => {
                let sent = sent_key(headers)?;
                let key = Key::parse(sent).map_err(|_| Refusal::InvalidKey)?;
                keyring.check(&key).await
            }
        }
    }
}

/// The layer of every route that needs a key.
pub(crate) async fn require_key(
    State(authenticator): State<Authenticator>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let principal = authenticator.authenticate(request.headers()).await?;
    request.extensions_mut().insert(principal);
    Ok(next.run(request).await)
}

/// The layer of every route that needs a key of the admin scope, inside [`require_key`].
pub(crate) async fn require_admin(
    principal: Principal,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    match principal.scope {
        Scope::Admin => Ok(next.run(request).await),
        Scope::Use => Err(Refusal::NotAdmin),
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Principal {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        parts.extensions.get().cloned().ok_or_else(|| {
            tracing::error!("a handler on a public route asked for its principal");
            Refusal::Internal
        })
    }
}

/// The one key of a request. The same key in both headers is one key.
fn sent_key(headers: &HeaderMap) -> Result<&[u8], Refusal> {
    let bearer = only(headers, &AUTHORIZATION)?.map(bearer).transpose()?;
    let plain = only(headers, &X_API_KEY)?.map(HeaderValue::as_bytes);
    match (bearer, plain) {
        (Some(bearer), Some(plain)) if bearer != plain => Err(Refusal::AmbiguousKey),
        (Some(key), _) | (None, Some(key)) => Ok(key),
        (None, None) => Err(Refusal::NoKey),
    }
}

fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() { Err(Refusal::AmbiguousKey) } else { Ok(first) }
}

/// What follows `Bearer `. The scheme's case does not matter (RFC 9110, 11.1), the key's does.
fn bearer(value: &HeaderValue) -> Result<&[u8], Refusal> {
    match value.as_bytes().split_at_checked("Bearer ".len()) {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case(b"Bearer ") => Ok(key),
        _ => Err(Refusal::InvalidKey),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_key_is_taken_from_either_header() {
        let bearer = headers(&[(AUTHORIZATION, "Bearer k")]);
        let lower = headers(&[(AUTHORIZATION, "bearer k")]);
        let plain = headers(&[(X_API_KEY, "k")]);
        let both = headers(&[(AUTHORIZATION, "Bearer k"), (X_API_KEY, "k")]);

        for headers in [bearer, lower, plain, both] {
            assert_eq!(sent_key(&headers), Ok(&b"k"[..]));
        }
    }

    #[test]
    fn two_different_keys_are_ambiguous() {
        let both = headers(&[(AUTHORIZATION, "Bearer k"), (X_API_KEY, "K")]);
        let twice = headers(&[(AUTHORIZATION, "Bearer k"), (AUTHORIZATION, "Bearer k")]);

        assert_eq!(sent_key(&both), Err(Refusal::AmbiguousKey));
        assert_eq!(sent_key(&twice), Err(Refusal::AmbiguousKey));
    }

    #[test]
    fn nothing_is_trimmed_and_no_other_scheme_is_read() {
        assert_eq!(sent_key(&headers(&[])), Err(Refusal::NoKey));
        assert_eq!(sent_key(&headers(&[(AUTHORIZATION, "Bearer  k")])), Ok(&b" k"[..]));
        for value in ["Basic k", "Bearer", "k", "Bearer\tk", ""] {
            let headers = headers(&[(AUTHORIZATION, value)]);
            assert_eq!(sent_key(&headers), Err(Refusal::InvalidKey), "{value:?}");
        }
    }
}
