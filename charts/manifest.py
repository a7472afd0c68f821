"""Print the chart as one manifest, for people without Helm: the namespace, and what its own values make of it.

$ HELM=$(.ci/helm) python charts/manifest.py >tproxy.yaml
"""

import os
import subprocess
import sys
from pathlib import Path

CHART = Path(__file__).parent / "tproxy"
NAMESPACE = "tproxy-system"
HEAD = f"""\
# tproxy, rendered from its Helm chart. Needs Kubernetes 1.30 or newer (on older ones leave out the two
# ValidatingAdmissionPolicy objects).
#   kubectl apply --server-side -f tproxy.yaml
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    # The node daemon uses hostPID, hostPath and capabilities.
    pod-security.kubernetes.io/enforce: privileged
"""


def manifest(helm: str) -> str:
    """All objects, in the order in which they can be made. Raises CalledProcessError."""
    command = [helm, "template", "tproxy", str(CHART), "--namespace", NAMESPACE, "--skip-tests", "--no-hooks"]
    command += ["--kube-version", "1.34.0", "--set", "admissionPolicy=always"]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return HEAD + rendered.replace("app.kubernetes.io/managed-by: Helm", "app.kubernetes.io/managed-by: kubectl")


if __name__ == "__main__":
    sys.stdout.write(manifest(os.environ.get("HELM", "helm")))
