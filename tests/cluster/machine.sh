#!/usr/bin/env bash
# machine.sh HOME ADDRESS: a machine that answers ssh on ADDRESS:22, until it is killed. To be run by
#   unshare --net --pid --fork --kill-child --mount-proc --mount
# so that its network, its processes (`ray stop` ends every Ray it can see), its home and /tmp/ray are its own.
# It has the dependencies of gatesweep, but not gatesweep: that comes with the job.
set -euo pipefail
home=$1 address=$2
packages=$(python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')

mkdir -p "$home/home" "$home/ray" "$home/hidden" /tmp/ray /run/sshd
mount -t tmpfs tmpfs "$home/hidden"
mkdir "$home/hidden/changed" "$home/hidden/work"
mount -t overlay overlay -o "lowerdir=$packages,upperdir=$home/hidden/changed,workdir=$home/hidden/work" "$packages"
rm -rf "$packages"/*gatesweep*
mount --bind "$home/ray" /tmp/ray
for other in "$home"/../*/; do      # a disk of its own, but for what all machines share
    case $(basename "$other") in "$(basename "$home")" | shared) ;; *) mount -t tmpfs tmpfs "$other" ;; esac
done

ip link set lo up
until ip link show eth0 > /dev/null 2>&1; do sleep 0.05; done     # whoever started this plugs it in
ip address add "$address/24" dev eth0
ip link set eth0 up
ip route add default via "${address%.*}.1"      # Ray takes the address that the default route would go out from

cat > "$home/sshd_config" <<CONFIG
ListenAddress $address:22
HostKey $home/../host_key
AuthorizedKeysFile $home/../key.pub
PasswordAuthentication no
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile none
MaxSessions 50
CONFIG
sed "s|^root:\(.*\):[^:]*:\([^:]*\)$|root:\1:$home/home:\2|" /etc/passwd > "$home/passwd"
mount --bind "$home/passwd" /etc/passwd         # where sshd reads what ~ is
/usr/sbin/sshd -D -e -f "$home/sshd_config" 2> "$home/sshd.log" &
wait        # this shell is the machine's first process, and collects what daemons leave behind
