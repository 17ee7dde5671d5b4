"""Real reverse proxies on loopback, each with its sample of deploy/proxy; addresses and certificates are changed."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stand_ins.listener import HOST, free_port
from stand_ins.served import end, pauses, spawn, takes_connections

PUBLIC, PAGE = "bridge.example.com", "bridge-page.example.com"
PROGRAMS: Final = {name: shutil.which(name) for name in ("nginx", "caddy")}


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate of both names, its own authority."""

    certificate: Path
    key: Path

    @classmethod
    def make(cls, folder: Path) -> "Certificate":
        """Make one with openssl."""
        made = cls(folder / "certificate.pem", folder / "key.pem")
        names = f"subjectAltName=DNS:{PUBLIC},DNS:{PAGE}"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
        subprocess.run([*command, "-addext", names, "-keyout", made.key, "-out", made.certificate], check=True)
        return made


def nginx_command(sample: str, folder: Path, port: int, certificate: Certificate) -> list[str]:
    """Write the site of the sample into a configuration of its own; return what starts it."""
    site = sample.replace("listen 443 ssl;", f"listen {HOST}:{port} ssl;")
    site = re.sub(r"ssl_certificate [^;]+;", f"ssl_certificate {certificate.certificate};", site)
    site = re.sub(r"ssl_certificate_key [^;]+;", f"ssl_certificate_key {certificate.key};", site)
    paths = "\n".join(
        f"{name}_temp_path {folder / name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log stderr;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{paths}\n{site}\n}}\n"
    )
    return [PROGRAMS["nginx"] or "nginx", "-p", str(folder), "-e", "stderr", "-c", str(config)]


def caddy_command(sample: str, folder: Path, port: int, certificate: Certificate) -> list[str]:
    """Give the sample's sites a port and the certificate; return what starts it."""
    own = f"\ttls {certificate.certificate} {certificate.key}\n\tbind {HOST}"
    sites = re.sub(
        rf"^({re.escape(PUBLIC)}|{re.escape(PAGE)}) \{{$", rf"https://\1:{port} {{\n{own}", sample, flags=re.MULTILINE
    )
    config = folder / "Caddyfile"
    config.write_text("{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + sites)
    return [PROGRAMS["caddy"] or "caddy", "run", "--config", str(config), "--adapter", "caddyfile"]


_COMMANDS = {"nginx": nginx_command, "caddy": caddy_command}
SAMPLES: Final = {"nginx": "nginx.conf", "caddy": "Caddyfile"}


@contextmanager
def proxy(name: str, sample: str, folder: Path, certificate: Certificate) -> Iterator[int]:
    """Run the proxy with this text of its sample; yields the port of both sites."""
    port = free_port()
    command = _COMMANDS[name](sample, folder, port, certificate)
    log = folder / "log.txt"
    own = (shutil.which("setpriv") or "setpriv", "--pdeathsig=TERM")
    environment = {"HOME": str(folder), "PATH": "/usr/bin:/bin"}
    process = spawn(*own, *command, folder=folder, log=log, environment=environment)
    try:
        for pause_s in pauses(process, lambda: takes_connections(port), log=log):
            time.sleep(pause_s)
        yield port
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        end(process)
