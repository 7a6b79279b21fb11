//! Requests about capability tokens: granting, handing on, showing and verifying them.

use std::sync::Arc;

use gridfs_modules::manifest::Limits;
use gridfs_store::Hash;

use super::{Answer, LinkRow, Service, Terms, TokenRow, VerifyCapability};
use crate::authority::Authority;
use crate::capability::{Chain, Claims, Packed, Prefix, Presented, Token};
use crate::error::{Code, Error, Result};
use crate::identity::{Identity, NodeId};
use crate::module::Caller;
use crate::parms::Value;
use crate::path;
use crate::resolve::{Reach, Resolver};
use crate::time;

/// How long a grant holds if nothing else is said: 30 days.
const DEFAULT_SECONDS: u64 = 30 * 24 * 3600;

impl Service {
    /// The caller that a request speaks for: the owner, or who holds its token. Another key than this node's can't be shown here.
    pub(super) fn caller(&self, token: Option<&str>) -> Result<Caller> {
        let Some(token) = token else { return Ok(Caller::default()) };
        let kernel = &self.node.kernel;
        let authority = Authority::of_own_token(kernel, &Token::from_text(token)?)?;
        Ok(Caller { authority, ..Caller::default() })
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.node.kernel.identity
    }

    pub(super) async fn grant(&self, terms: Terms) -> Result<Answer> {
        let identity = self.identity();
        let now_s = time::now_ms() / 1000;
        let begins_s = terms.begins_ms.map_or(now_s, |time_ms| time_ms / 1000);
        let claims = Claims {
            issuer: identity.id(),
            holder: terms.to.parse()?,
            audience: terms.audience.as_deref().map_or(Ok(identity.id()), str::parse)?,
            expires_s: terms.expires_ms.map_or(begins_s + DEFAULT_SECONDS, |time_ms| time_ms / 1000),
            begins_s,
            issued_s: now_s,
            id: random_id()?,
            prefix: self.prefix(terms.prefix.as_deref().unwrap_or_default()).await?,
            limits: terms.limits,
            delegable: terms.delegable,
        };
        let token = match terms.packed {
            true => Token::Packed(Packed::grant(&claims, identity)?),
            false => Token::Chain(Chain::grant(claims, identity)?),
        };
        Ok(Answer::Text(token.to_text()))
    }

    /// Hands a token on. What the terms leave open is as the token has it.
    pub(super) async fn attenuate(&self, token: &str, terms: Terms) -> Result<Answer> {
        let Token::Chain(parent) = Token::from_text(token)? else {
            return Err(Error::new(
                Code::NotAccepted,
                "a packed token can't be handed on; ask for one without --packed",
            ));
        };
        let identity = self.identity();
        let before = parent.claims();
        let claims = Claims {
            issuer: identity.id(),
            holder: terms.to.parse()?,
            audience: terms.audience.as_deref().map_or(Ok(before.audience), str::parse)?,
            expires_s: terms.expires_ms.map_or(before.expires_s, |time_ms| time_ms / 1000),
            begins_s: terms.begins_ms.map_or(before.begins_s, |time_ms| time_ms / 1000),
            issued_s: time::now_ms() / 1000,
            id: random_id()?,
            prefix: match &terms.prefix {
                Some(prefix) => self.prefix(prefix).await?,
                None => before.prefix.clone(),
            },
            limits: Limits {
                fuel: terms.limits.fuel.or(before.limits.fuel),
                wall_ms: terms.limits.wall_ms.or(before.limits.wall_ms),
                memory_bytes: terms.limits.memory_bytes.or(before.limits.memory_bytes),
                output_bytes: terms.limits.output_bytes.or(before.limits.output_bytes),
            },
            delegable: terms.delegable,
        };
        Ok(Answer::Text(Token::Chain(parent.attenuate(claims, identity)?).to_text()))
    }

    pub(super) fn show_capability(&self, token: &str) -> Result<Answer> {
        let token = Token::from_text(token)?;
        let bytes = token.to_bytes();
        let (form, links) = match &token {
            Token::Chain(chain) => ("chain", chain.links().map(|link| link_row(link.claims())).collect()),
            Token::Packed(packed) => ("packed", vec![packed_row(packed)]),
        };
        let id = Hash::of(&bytes).to_string();
        Ok(Answer::Token(TokenRow { form: form.into(), bytes: bytes.len(), id, links }))
    }

    pub(super) async fn verify_capability(&self, request: VerifyCapability) -> Result<Answer> {
        let own = self.identity().id();
        let token = Token::from_text(&request.token)?;
        let key = |text: &Option<String>, default| text.as_deref().map_or(Ok(default), str::parse::<NodeId>);
        let holder = match &token {
            Token::Chain(chain) => chain.claims().holder,
            Token::Packed(_) => own,
        };
        let (node, holder) = (key(&request.node, own)?, key(&request.holder, holder)?);
        let kernel = &self.node.kernel;
        let presented = Presented { now_ms: time::now_ms(), node, holder, roots: &kernel.roots(node) };
        let grant = token.verify(&presented)?;
        let until = time::text(grant.expires_s() * 1000);
        let Some(path) = &request.path else { return Ok(Answer::Text(format!("good until {until}"))) };
        let resolver = Resolver::new(kernel.clone(), Authority::Owner, Reach::Known);
        let (parms, _) = crate::resolve::now(resolver.path_parms(path))?.ok_or_else(|| {
            Error::new(Code::Usage, format!("{path} has a call in it that has no result yet; make that call first"))
        })?;
        kernel.check_rights(&Authority::Grant(Arc::new(grant)), &parms)?;
        Ok(Answer::Text(format!("good for {path} until {until}")))
    }

    /// The prefix that a path spells: promise, module and arguments, as many as there are.
    async fn prefix(&self, spelled: &str) -> Result<Prefix> {
        let usage = |e: path::PathError| Error::caused(Code::Usage, e.to_string(), e);
        let resolver = self.resolver(Authority::Owner);
        let mut components = spelled.split('/').filter(|component| !component.is_empty());
        let Some(promise) = components.next() else { return Ok(Prefix::default()) };
        let mut values = vec![Value::Object(resolver.promise(&path::decode(promise).map_err(usage)?)?)];
        if let Some(module) = components.next() {
            values.push(Value::Object(resolver.cid(&path::decode(module).map_err(usage)?)?));
        }
        let components: Vec<&str> = components.collect();
        if let (false, [_, Value::Object(module)]) = (components.is_empty(), values.as_slice()) {
            let module = self.node.kernel.modules.get(module)?;
            let mut texts = Vec::new();
            for (component, level) in components.iter().zip(1..) {
                match level < module.levels() {
                    true => texts.push(path::decode(component).map_err(usage)?),
                    false => texts.extend(path::decode_component(component).map_err(usage)?),
                }
            }
            let arguments = resolver.values(&module, &texts).await?;
            values.extend(arguments.expect("a resolver that may call resolves everything"));
        }
        Prefix::new(values).ok_or_else(|| Error::new(Code::Usage, "the prefix has too many arguments"))
    }
}

fn random_id() -> Result<[u8; 16]> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|e| Error::caused(Code::General, "the system gives no random bytes", e))?;
    Ok(id)
}

fn link_row(claims: &Claims) -> LinkRow {
    LinkRow {
        issuer: Some(claims.issuer.to_string()),
        holder: Some(claims.holder.to_string()),
        audience: Some(claims.audience.to_string()),
        begins: time::text(claims.begins_s * 1000),
        expires: time::text(claims.expires_s * 1000),
        issued: Some(time::text(claims.issued_s.saturating_mul(1000))),
        prefix: Some(claims.prefix.to_string()),
        prefix_hash: claims.prefix.hash().to_string(),
        limits: claims.limits,
        delegable: claims.delegable,
    }
}

fn packed_row(packed: &Packed) -> LinkRow {
    LinkRow {
        issuer: None,
        holder: None,
        audience: None,
        begins: time::text(packed.begins_s * 1000),
        expires: time::text(packed.expires_s * 1000),
        issued: None,
        prefix: None,
        prefix_hash: packed.function.to_string(),
        limits: packed.limits(),
        delegable: 0,
    }
}
