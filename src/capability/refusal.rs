//! Why a token is not believed, or does not give what is asked.

use crate::error::{Code, Error};
use crate::identity::NodeId;
use crate::time;

use super::{MAX_BYTES, MAX_LINKS};

/// A reason to refuse.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Not the text form of anything.
    #[error(
        "this is not a token: its text form is multibase base64url, and begins with u; `gridfs cap grant` prints one"
    )]
    NotText,
    /// Too many bytes.
    #[error("the token is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// Too many links.
    #[error("the token has more than {MAX_LINKS} links")]
    TooManyLinks,
    /// Not CBOR, COSE or CWT.
    #[error("the token can't be read")]
    Malformed(#[source] coset::CoseError),
    /// Another version.
    #[error("the token says version {0}; this program reads version 1 (0: none)")]
    Version(u64),
    /// A part that is missing or not what it should be.
    #[error("the token can't be read: {0} is missing or wrong")]
    Claim(&'static str),
    /// More than the known claims, or in another spelling.
    #[error("the token is not in its one encoding (deterministic CBOR, known claims and headers only)")]
    NotDeterministic,
    /// Its end does not come after its beginning.
    #[error("the token ends before it begins, or after the year 9999")]
    Backwards,
    /// Signed by another than the parent's holder.
    #[error("the token was handed on by {signer}, but its parent was given to {holder}")]
    WrongSigner {
        /// The child's signer.
        signer: NodeId,
        /// The parent's holder.
        holder: NodeId,
    },
    /// Another audience than the parent's.
    #[error("the token holds at {child}, but its parent at {parent}")]
    OtherAudience {
        /// The child's.
        child: NodeId,
        /// The parent's.
        parent: NodeId,
    },
    /// The parent may not be handed on.
    #[error("the token's parent may not be handed on; ask who granted it for one with --delegable")]
    NotDelegable,
    /// May be handed on more often than the parent allows.
    #[error("the token may be handed on {child} more times, but its parent {parent} times, this one included")]
    DelegatesMore {
        /// The child's count.
        child: u64,
        /// The parent's.
        parent: u64,
    },
    /// Covers more than the parent.
    #[error("the token covers {child}, but its parent only {parent}")]
    WiderPrefix {
        /// The child's prefix.
        child: String,
        /// The parent's.
        parent: String,
    },
    /// Holds when the parent does not.
    #[error("the token holds earlier or longer than its parent")]
    LongerValid,
    /// Allows more use than the parent.
    #[error("the token's limit on {0} is higher than its parent's")]
    WiderLimit(&'static str),
    /// The root is nobody here.
    #[error(
        "the token goes back to {0}, who can grant nothing here: it is neither this node's key nor that of the issuer of a \
         promise that this node accepts"
    )]
    ForeignRoot(NodeId),
    /// For another node.
    #[error("the token holds at {wanted}, and this node is {here}")]
    Audience {
        /// Where it holds.
        wanted: NodeId,
        /// Where it was presented.
        here: NodeId,
    },
    /// Held by another.
    #[error("the token was given to {wanted}, and {presenter} presents it")]
    Holder {
        /// Its holder.
        wanted: NodeId,
        /// Who presents it.
        presenter: NodeId,
    },
    /// Of a packed token: one of the three keys is another.
    #[error(
        "the token was given to another key, or holds at another node, or was granted by a key that can grant nothing here; \
         a packed token does not say which"
    )]
    Stranger,
    /// Not yet valid.
    #[error("the token holds only from {}", time::text(.0 * 1000))]
    Early(u64),
    /// No longer valid.
    #[error("the token ended at {}; ask who granted it for another", time::text(.0 * 1000))]
    Expired(u64),
    /// A signature is wrong.
    #[error("the token is not signed by {0}: it was changed, or made up")]
    Signature(NodeId),
    /// The call is outside of it.
    #[error("the token covers {covers}, not {wanted}; ask who granted it for one with that --prefix")]
    NotCovered {
        /// What it covers.
        covers: String,
        /// Promise and module of the call.
        wanted: String,
    },
    /// The promise is another's.
    #[error("the token goes back to {0}, who did not make this promise")]
    NotItsPromise(NodeId),
    /// Not to be said in the short form.
    #[error("this does not fit into a packed token: {0}")]
    DoesNotFit(&'static str),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        use Refusal as R;
        let code = match refusal {
            R::NotText | R::DoesNotFit(_) | R::Backwards => Code::Usage,
            R::TooLong | R::Malformed(_) | R::Version(_) | R::Claim(_) | R::NotDeterministic | R::Signature(_) => {
                Code::Corrupt
            }
            _ => Code::NotAccepted,
        };
        Error::caused(code, refusal.to_string(), refusal)
    }
}
