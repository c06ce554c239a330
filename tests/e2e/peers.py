# SPDX-License-Identifier: ISC
"""Debian's Postfix and Exim as receiving servers, never installed: unpacked below build/peers and run in
a mount namespace of their own over a copy-on-write root, so that the host's own MTA, users and files stay
as they are. fetch() is called by `./bootstrap check` while the network is there."""
import glob
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import BUILD, Process, Sink, accepts, source, wait_for  # noqa: E402

PEERS = os.path.join(BUILD, "peers")
PACKAGES = ["postfix", "exim4-base", "exim4-daemon-light"]

# Runs inside `unshare -m -p` (its end is the end of all its processes): $1 unpacked packages, $2 directory of this peer, $3 program and its arguments.
ROOT_SCRIPT = r"""
set -e
packages=$1 dir=$2; shift 2
mount --make-rprivate /
mkdir -p "$dir/layer" "$dir/mail" "$dir/spool"
mount -t tmpfs tmpfs "$dir/layer"
mkdir "$dir/layer/up" "$dir/layer/work" "$dir/layer/root"
cp -a "$packages/." "$dir/layer/up/"
if [ -d "$dir/layer/up/lib" ]; then cp -a "$dir/layer/up/lib/." "$dir/layer/up/usr/lib/"; rm -rf "$dir/layer/up/lib"; fi
cp -a "$dir/etc/." "$dir/layer/up/etc/"
mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/layer/up,workdir=$dir/layer/work" "$dir/layer/root"
root=$dir/layer/root
cat >> "$root/etc/passwd" <<EOF
postfix:x:5001:5001::/var/spool/postfix:/usr/sbin/nologin
Debian-exim:x:5003:5003::/var/spool/exim4:/usr/sbin/nologin
EOF
cat >> "$root/etc/group" <<EOF
postfix:x:5001:
postdrop:x:5002:
Debian-exim:x:5003:
EOF
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mkdir -p "$root/var/spool/postfix" "$root/var/spool/exim4" "$root/var/lib/postfix" "$root/var/log/exim4" "$root/srv/mail"
chown 5001:5001 "$root/var/lib/postfix"
chown 5003:5003 "$root/var/log/exim4"
mount --bind "$dir/mail" "$root/srv/mail"
case $1 in
*postfix) mount --bind "$dir/spool" "$root/var/spool/postfix" ;;
*) mount --bind "$dir/spool" "$root/var/spool/exim4"; chown 5003:5003 "$root/var/spool/exim4" ;;
esac
chmod 1777 "$root/srv/mail"
exec chroot "$root" "$@"
"""

MASTER_CF = """%(address)s:%(port)d inet n - n - %(smtpd)d smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
smtp unix - - n - %(smtp)d smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
postlog unix-dgram n - n - 1 postlogd
"""
MAIN_CF = """compatibility_level = 3.6
myhostname = postfix.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
maillog_file = /dev/stdout
queue_directory = /var/spool/postfix
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
data_directory = /var/lib/postfix
shlib_directory = /usr/lib/postfix
meta_directory = /etc/postfix
mail_owner = postfix
setgid_group = postdrop
biff = no
alias_maps =
alias_database =
local_recipient_maps =
disable_dns_lookups = yes
smtp_host_lookup = native
"""
RECEIVER_CF = """virtual_mailbox_domains = static:all
smtpd_tls_security_level = may
smtpd_client_connection_count_limit = 0
virtual_mailbox_base = /srv/mail
virtual_mailbox_maps = static:box/
virtual_uid_maps = static:5001
virtual_gid_maps = static:5001
virtual_minimum_uid = 100
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
"""
EXIM_CONF = """primary_hostname = exim.test
local_interfaces = %(address)s
daemon_smtp_ports = %(port)d
exim_user = Debian-exim
exim_group = Debian-exim
spool_directory = /var/spool/exim4
log_file_path = /var/log/exim4/%%slog
pid_file_path = /var/spool/exim4/pid
acl_smtp_rcpt = ok
acl_smtp_data = ok
acl_smtp_mail = ok
accept_8bitmime
smtp_accept_max = 100
%(extra)s
begin acl
ok:
  accept
begin routers
all:
  driver = accept
  transport = box
begin transports
box:
  driver = appendfile
  maildir_format
  directory = /srv/mail/box
  user = Debian-exim
  create_directory
"""


def fetch():
    """Downloads and unpacks the packages once; True when they are there."""
    done = os.path.join(PEERS, "done")
    if os.path.exists(done):
        return True
    shutil.rmtree(PEERS, ignore_errors=True)
    os.makedirs(os.path.join(PEERS, "root"))
    subprocess.run(["apt-get", "-qq", "download", *PACKAGES], cwd=PEERS, check=True,
                   stderr=subprocess.DEVNULL)
    for deb in glob.glob(PEERS + "/*.deb"):
        subprocess.run(["dpkg", "-x", deb, os.path.join(PEERS, "root")], check=True)
    with open(done, "w"):
        pass
    return True


def children(parent):
    with open("/proc/%d/task/%d/children" % (parent, parent)) as f:
        return [int(pid) for pid in f.read().split()]


class Peer:
    """A receiving server at address:port; its mailbox is messages()."""

    def __init__(self, name, directory, address, port, etc, argv):
        self.address, self.port = address, port
        self.directory = os.path.join(directory, name)
        for path, text in etc.items():
            full = os.path.join(self.directory, "etc", path)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "w") as f:
                f.write(text)
        self.process = Process(["unshare", "-m", "-p", "-f", "--kill-child=KILL", "sh", "-c",
                                ROOT_SCRIPT, "peer",
                                os.path.join(PEERS, "root"), self.directory, *argv],
                               os.path.join(directory, name + ".out"))
        try:
            wait_for(name + " listens", lambda: accepts(address, port), 30)
        except AssertionError:
            self.stop()
            raise

    def messages(self):
        """The mailbox, as bytes, in order of arrival."""
        box = os.path.join(self.directory, "mail", "box", "new")
        if not os.path.isdir(box):
            return []
        found = []
        for name in sorted(os.listdir(box), key=lambda n: os.stat(os.path.join(box, n)).st_mtime_ns):
            with open(os.path.join(box, name), "rb") as f:
                found.append(f.read())
        return found

    def log(self):
        for path in glob.glob(os.path.join(self.directory, "mail", "maillog")):
            with open(path, errors="replace") as f:
                return f.read()
        return ""

    def stop(self):
        # Postfix's master leaves the session, but it is the first process of its namespace.
        for pid in children(self.process.pid):
            os.kill(pid, signal.SIGKILL)
        self.process.kill_all()


def postfix(directory, address, port=2525, main="", smtpd=50, smtp=50, files=None):
    fetch()
    values = dict(address=address, port=port, smtpd=smtpd, smtp=smtp)
    etc = {"postfix/master.cf": MASTER_CF % values, "postfix/main.cf": MAIN_CF % values + main,
           "postfix/dynamicmaps.cf": "", "mailname": "postfix.test\n"}
    etc.update(files or {})
    return Peer("postfix", directory, address, port, etc, ["/usr/sbin/postfix", "start-fg"])


def exim(directory, address, port=2525, extra=""):
    fetch()
    return Peer("exim", directory, address, port,
                {"exim4/test.conf": EXIM_CONF % dict(address=address, port=port, extra=extra)},
                ["/usr/sbin/exim4", "-C", "/etc/exim4/test.conf", "-bdf", "-q1m"])


def bench_postfix(messages, size, conns):
    """Messages a second through Postfix with its spool on the same disk, to the same sink."""
    directory = tempfile.mkdtemp(prefix="postern-bench-", dir=os.environ.get("BENCH_DIR"))
    os.chmod(directory, 0o755)
    sink = Sink(directory, "127.70.0.2", 2525)
    peer = postfix(directory, "127.70.0.4", smtpd=conns + 10, smtp=conns, main=(
        "relayhost = [127.70.0.2]:2525\ndefault_destination_concurrency_limit = %d\n"
        "initial_destination_concurrency = %d\nsmtpd_client_connection_count_limit = 0\n"
        "in_flow_delay = 0\nsmtp_connection_cache_on_demand = yes\n" % (conns, conns)))
    try:
        began = time.monotonic()
        source(peer.address, peer.port, "-c", str(conns), "-m", str(messages), "-b", str(size),
               "-d", "bench.test", "-t", "300")
        wait_for("Postfix delivers all", lambda: sink.stats()["messages"] >= messages, 300)
        return messages / (time.monotonic() - began)
    finally:
        peer.stop()
        sink.stop()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    fetch()
