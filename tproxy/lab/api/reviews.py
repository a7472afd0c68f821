"""Questions of callers about themselves: SelfSubjectAccessReview (may I?) and SelfSubjectReview (who am I?)."""

from collections.abc import Callable, Mapping

from tproxy.kube.port import Object
from tproxy.lab.api.authn import User
from tproxy.lab.api.request import RequestInfo


def _access(user: User, review: Object) -> Object:
    asked = review.get("spec", {}).get("resourceAttributes", {})
    names = ("verb", "group", "version", "resource", "namespace", "name", "subresource")
    info = RequestInfo(*(asked.get(name, "") for name in names))
    return _head("authorization.k8s.io/v1", "SelfSubjectAccessReview") | {
        "spec": review.get("spec", {}),
        "status": {"allowed": user.may(info)},
    }


def _subject(user: User, review: Object) -> Object:
    info = {"username": user.name, "groups": list(user.groups)}
    return _head("authentication.k8s.io/v1", "SelfSubjectReview") | {"status": {"userInfo": info}}


def _head(api_version: str, kind: str) -> Object:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"creationTimestamp": None}}


ANSWERS: Mapping[str, Callable[[User, Object], Object]] = {
    "selfsubjectaccessreviews.authorization.k8s.io": _access,
    "selfsubjectreviews.authentication.k8s.io": _subject,
}
