#!/bin/bash
# User-data of an instance that comes back by itself: cloud-init runs it as root on a blank
# machine, and again if it was cut short. The credentials are those of the instance's role.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -qy curl
curl -fsS -o /tmp/kedge.deb https://packages.example.org/kedge_amd64.deb     # or wherever you keep it
apt-get install -qy postgresql /tmp/kedge.deb        # and MongoDB, from its own packages

# Only a mirror that this key signed is believed: its hooks are run as root.
cat >/root/mirror.pub <<'KEY'
ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
KEY

kedge recover --from s3://example-backup --repo app --trust /root/mirror.pub
