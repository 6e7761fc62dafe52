//! Services, their checks and backends.

use super::Case;

pub(super) const CASES: &[Case] = &[
    (
        "port = 25\n",
        "port = 25\nrequire = \"any\"\n",
        r#"usher.toml:38: service "mail": require: needs a dns_name; add the dns_name that the services share, or remove it"#,
    ),
    (
        r#"[[service]]
name = "web"
dns_name = "www.example.test"
protocol = "tcp"
port = 80
forward = "nat"
check = { kind = "http", path = "/healthz", interval = "1s" }
[[service.backend]]
name = "b1"
address = ["203.0.113.21", "2001:db8:2::21"]
port = 8080
weight = 1
[[service.backend]]
name = "b2"
address = ["203.0.113.22", "2001:db8:2::22"]
port = 8080
[[service]]
name = "mail"
protocol = "tcp"
port = 25
forward = "dsr-l2"
[[service.backend]]
name = "m1"
address = ["203.0.113.31", "2001:db8:2::31"]
"#,
        "",
        "usher.toml:1: service: is missing: there is nothing to balance; write `[[service]]`, in double brackets, above each service's settings",
    ),
    (
        r#"name = "mail""#,
        r#"name = "web""#,
        r#"usher.toml:35: service "web": name: "web" is already the name of the service in line 19; give each its own name"#,
    ),
    (
        r#"name = "mail"
"#,
        "",
        r#"usher.toml:34: service #2: name: is missing; write a name in quotes, such as "web1""#,
    ),
    (
        r#"name = "mail""#,
        r#"name = "mail/imap""#,
        r#"usher.toml:35: service "mail/imap": name: "mail/imap" is not a name; use 1 to 63 letters, digits, "-", "_" and ".": it stands in commands, logs and metrics"#,
    ),
    (
        "port = 25",
        "port = 25\nidle_timeout = \"18h\"",
        r#"usher.toml:38: service "mail": idle_timeout: "18h" is more than 17h; use 1s to 17h"#,
    ),
    (
        "port = 25",
        "port = 25\non_backend_down = \"wait\"",
        r#"usher.toml:38: service "mail": on_backend_down: "wait" is not possible here; use "keep" or "reset""#,
    ),
    (
        "port = 25",
        "port = 25\non_drain_end = \"wait\"",
        r#"usher.toml:38: service "mail": on_drain_end: "wait" is not possible here; use "keep" or "reset""#,
    ),
    (
        "protocol = \"tcp\"\nport = 25",
        "protocol = \"udp\"\nport = 25\non_drain_end = \"reset\"",
        r#"usher.toml:38: service "mail": on_drain_end: means nothing to a UDP service; remove it: a UDP flow goes to another backend at once"#,
    ),
    (
        "port = 25",
        "port = 25\ndrain_timeout = \"25h\"",
        r#"usher.toml:38: service "mail": drain_timeout: "25h" is more than 1day; use 1s to 1day"#,
    ),
    (
        "port = 25",
        "port = 25\ndrain_timeout = 600",
        r#"usher.toml:38: service "mail": drain_timeout: 600 is a whole number; write a duration in quotes, such as "10m""#,
    ),
    (
        "port = 25",
        "port = 25\nhash = \"address\"",
        r#"usher.toml:38: service "mail": hash: "address" is not possible here; use "flow" or "client""#,
    ),
    (
        "port = 25",
        "port = 25\naffinity = \"0s\"",
        r#"usher.toml:38: service "mail": affinity: "0s" is less than 1s; use 1s to 17h"#,
    ),
    (
        "port = 25",
        "port = 25\nrate_limit = { per_source = 0 }",
        r#"usher.toml:38: service "mail": rate_limit: per_source: 0 is less than 1; use 1 to 1000000"#,
    ),
    (
        "port = 25",
        "port = 25\nrate_limit = { burst = 5 }",
        r#"usher.toml:38: service "mail": rate_limit: per_source: is missing; write a whole number without quotes, such as 100"#,
    ),
    (
        "port = 25",
        "port = 25\nquic = { server_id_length = 4 }",
        r#"usher.toml:38: service "mail": quic: means nothing to a TCP service; set protocol = "udp", or remove it"#,
    ),
    (
        r#"name = "m1""#,
        "name = \"m1\"\nquic_server_id = \"0a\"",
        r#"usher.toml:41: service "mail": backend "m1": quic_server_id: means nothing without the service's quic; add quic = { server_id_length = … } to the service, or remove it"#,
    ),
    (
        r#"protocol = "tcp""#,
        r#"protocol = "sctp""#,
        r#"usher.toml:21: service "web": protocol: "sctp" is not possible here; use "tcp" or "udp""#,
    ),
    (
        r#"protocol = "tcp"
"#,
        "",
        r#"usher.toml:18: service "web": protocol: is missing; write "tcp" or "udp""#,
    ),
    (
        "port = 80\n",
        "",
        r#"usher.toml:18: service "web": port: is missing; write a port without quotes, such as 80"#,
    ),
    (
        "port = 80\n",
        "port = 70000\n",
        r#"usher.toml:22: service "web": port: 70000 is more than 65535; use a port from 1 to 65535"#,
    ),
    (
        "port = 80\n",
        r#"port = 80
addresses = ["192.0.2.99"]
"#,
        r#"usher.toml:23: service "web": addresses: 192.0.2.99: is not an address of this node; add it to [node] addresses, or use 192.0.2.11 and 2001:db8:1::11"#,
    ),
    (
        "port = 80\n",
        r#"port = 80
addresses = ["192.0.2.11", "192.0.2.11"]
"#,
        r#"usher.toml:23: service "web": addresses: 192.0.2.11: is given twice; remove one of the two"#,
    ),
    (
        "port = 25",
        "port = 80",
        r#"usher.toml:37: service "mail": port: tcp port 80 on 192.0.2.11 is service "web"'s already; use another port, or give the two services different addresses"#,
    ),
    (
        r#"forward = "dsr-l2""#,
        r#"forward = "dsr""#,
        r#"usher.toml:38: service "mail": forward: "dsr" is not possible here; did you mean "dsr-l2"?"#,
    ),
    (
        r#"forward = "dsr-l2""#,
        r#"forward = "tunnel""#,
        r#"usher.toml:38: service "mail": forward: "tunnel" is not possible here; use "nat" or "dsr-l2" or "dsr-ipip" or "dsr-gue""#,
    ),
    (
        r#"forward = "nat""#,
        r#"forward = "dsr-l2""#,
        r#"usher.toml:28: service "web": backend "b1": port: 8080 differs from the service's port 80, and dsr-l2 cannot change ports; remove it and let the backend listen on 80, or use forward = "nat"
usher.toml:33: service "web": backend "b2": port: 8080 differs from the service's port 80, and dsr-l2 cannot change ports; remove it and let the backend listen on 80, or use forward = "nat""#,
    ),
    (
        r#"kind = "http""#,
        r#"kind = "htttp""#,
        r#"usher.toml:24: service "web": check: kind: "htttp" is not possible here; did you mean "http"?"#,
    ),
    (
        r#"kind = "http""#,
        r#"kind = "ping""#,
        r#"usher.toml:24: service "web": check: kind: "ping" is not possible here; use "tcp" or "http" or "https" or "tls" or "udp" or "dns" or "grpc" or "grpcs" or "agent" or "exec""#,
    ),
    (
        r#"kind = "http", path = "/healthz""#,
        r#"kind = "exec""#,
        r#"usher.toml:24: service "web": check: command: is missing; write the program and its arguments, such as ["/usr/local/bin/check-db", "--quick"]"#,
    ),
    (
        r#"kind = "http", path = "/healthz""#,
        r#"kind = "exec", command = ["check-db"]"#,
        r#"usher.toml:24: service "web": check: command: check-db: "check-db" is not an absolute path; write the program's whole path, such as "/usr/local/bin/check-db""#,
    ),
    (
        r#"kind = "http""#,
        r#"kind = "http", command = ["/bin/true"]"#,
        r#"usher.toml:24: service "web": check: command: means nothing to a check of kind "http"; set kind = "exec", or remove it"#,
    ),
    (
        r#"kind = "http", path = "/healthz""#,
        r#"kind = "dns""#,
        r#"usher.toml:24: service "web": check: query: is missing; set query = "www.example.test" to a name that the backend answers"#,
    ),
    (
        r#"kind = "http", path = "/healthz""#,
        r#"kind = "dns", query = "www.example.test", record = "AAA""#,
        r#"usher.toml:24: service "web": check: record: "AAA" is not possible here; did you mean "AAAA"?"#,
    ),
    (
        r#"kind = "http", path = "/healthz""#,
        r#"kind = "agent""#,
        r#"usher.toml:24: service "web": check: port: is missing: an agent has a port of its own; set port = 9000, or where the agent listens"#,
    ),
    (
        r#"kind = "http""#,
        r#"kind = "http", query = "www.example.test""#,
        r#"usher.toml:24: service "web": check: query: means nothing to a check of kind "http"; set kind = "dns", or remove it"#,
    ),
    (
        r#"kind = "http", path = "/healthz""#,
        r#"kind = "grpc", grpc_service = "shop orders""#,
        r#"usher.toml:24: service "web": check: grpc_service: is not the name of a gRPC service; write its package and name, such as "shop.Orders", or "" for the whole server"#,
    ),
    (
        r#"kind = "http""#,
        r#"kind = "http", aim = "vip""#,
        r#"usher.toml:24: service "web": check: aim: is not possible under forward = "nat", where backends do not have the service's address; remove it"#,
    ),
    (
        r#"kind = "http""#,
        r#"kind = "http", aim = "backend""#,
        r#"usher.toml:24: service "web": check: aim: "backend" is not possible here; use "vip" or "address""#,
    ),
    (
        "port = 25",
        "port = 25\nslow_start = \"500ms\"",
        r#"usher.toml:38: service "mail": slow_start: "500ms" is less than 1s; use 1s to 1day"#,
    ),
    (
        "port = 25",
        "port = 25\nslow_start = 30",
        r#"usher.toml:38: service "mail": slow_start: 30 is a whole number; write a duration in quotes, such as "30s""#,
    ),
    (
        r#"port = 25"#,
        r#"port = 25
all_down = "ignore""#,
        r#"usher.toml:38: service "mail": all_down: "ignore" is not possible here; use "reset" or "drop""#,
    ),
    (
        r#"port = 25"#,
        r#"port = 25
all_down = 5"#,
        r#"usher.toml:38: service "mail": all_down: 5 is a whole number; write in [dns] "all" or "none", in a service "reset", "drop" or a table such as { service = "sorry" }"#,
    ),
    (
        r#"port = 25"#,
        r#"port = 25
all_down = {}"#,
        r#"usher.toml:38: service "mail": all_down: service: is missing; name the service whose backends stand in, such as { service = "sorry" }"#,
    ),
    (
        r#"port = 25"#,
        r#"port = 25
all_down = { servise = "web" }"#,
        r#"usher.toml:38: service "mail": all_down: servise: is not a known key; did you mean `service`?"#,
    ),
    (
        r#"port = 25"#,
        r#"port = 25
all_down = { service = "webb" }"#,
        r#"usher.toml:38: service "mail": all_down: service: "webb" is no service; did you mean "web"?"#,
    ),
    (
        r#"port = 25"#,
        r#"port = 25
all_down = { service = "sorry" }"#,
        r#"usher.toml:38: service "mail": all_down: service: "sorry" is no service; add a [[service]] of this name"#,
    ),
    (
        r#"port = 25"#,
        r#"port = 25
all_down = { service = "mail" }"#,
        r#"usher.toml:38: service "mail": all_down: service: is the service itself; name another one"#,
    ),
    (
        r#"port = 25"#,
        r#"port = 25
all_down = { service = "web" }"#,
        r#"usher.toml:38: service "mail": all_down: service: "web" has forward nat, and this service has dsr-l2; use the same for both"#,
    ),
    (
        r#"name = "mail"
protocol = "tcp"
port = 25
forward = "dsr-l2"
"#,
        r#"name = "sorry"
protocol = "tcp"
port = 81
all_down = { service = "web" }
backend = [{ name = "s1", address = ["203.0.113.41", "2001:db8:2::41"] }]
[[service]]
name = "mail"
protocol = "tcp"
port = 25
forward = "nat"
all_down = { service = "sorry" }
"#,
        r#"usher.toml:45: service "mail": all_down: service: "sorry" has a fallback itself; name a service without one: nobody is sent on twice"#,
    ),
    (
        r#"name = "mail"
protocol = "tcp"
port = 25
forward = "dsr-l2"
"#,
        r#"name = "sorry"
protocol = "udp"
port = 81
check = { kind = "tcp", port = 80 }
backend = [{ name = "s1", address = ["203.0.113.41", "2001:db8:2::41"] }]
[[service]]
name = "mail"
protocol = "tcp"
port = 25
forward = "nat"
all_down = { service = "sorry" }
"#,
        r#"usher.toml:45: service "mail": all_down: service: "sorry" has protocol udp, and this service has tcp; use a service of the same"#,
    ),
    (
        r#"name = "mail"
protocol = "tcp"
port = 25
forward = "dsr-l2"
"#,
        r#"name = "sorry"
protocol = "tcp"
port = 81
forward = "dsr-l2"
backend = [{ name = "s1", address = ["203.0.113.41", "2001:db8:2::41"] }]
[[service]]
name = "mail"
protocol = "tcp"
port = 25
forward = "dsr-l2"
all_down = { service = "sorry" }
"#,
        r#"usher.toml:45: service "mail": all_down: service: "sorry" has port 81, and this service has 25; offer it on the same port of another address, or use forward = "nat" for both"#,
    ),
    (
        r#"name = "mail"
protocol = "tcp"
port = 25
forward = "dsr-l2"
"#,
        r#"name = "sorry"
protocol = "tcp"
port = 81
backend = [{ name = "s1", address = "203.0.113.41" }]
[[service]]
name = "mail"
protocol = "tcp"
port = 25
forward = "nat"
all_down = { service = "sorry" }
"#,
        r#"usher.toml:44: service "mail": all_down: service: "sorry" is not offered over IPv6; give it an address and a backend there"#,
    ),
    (
        r#"name = "mail"
protocol = "tcp"
port = 25
forward = "dsr-l2"
"#,
        r#"name = "sorry"
protocol = "tcp"
port = 81
backend = [{ name = "s1", address = ["203.0.113.31", "2001:db8:2::41"], port = 25 }]
[[service]]
name = "mail"
protocol = "tcp"
port = 25
forward = "nat"
all_down = { service = "sorry" }
"#,
        r#"usher.toml:44: service "mail": all_down: service: "sorry" has the backend 203.0.113.31:25, which is one of this service's own; use other backends; panic_below uses own ones although their checks fail"#,
    ),
    (
        r#"forward = "nat""#,
        "forward = \"nat\"\nwithdraw_below = 30\npanic_below = 50",
        r#"usher.toml:24: service "web": withdraw_below: is less than panic_below, 50: all backends would be used while DNS still names this node; use 50 or more, so that the node leaves DNS first"#,
    ),
    (
        r#"forward = "nat""#,
        "forward = \"nat\"\npanic_below = 101",
        r#"usher.toml:24: service "web": panic_below: 101 is more than 100; use a share in percent, such as 50; 0 for never"#,
    ),
    (
        r#"kind = "http""#,
        r#"kind = "http", verify = false"#,
        r#"usher.toml:24: service "web": check: verify: means nothing to a check of kind "http"; set kind = "https", or remove it"#,
    ),
    (
        r#"kind = "http", path = "/healthz""#,
        r#"kind = "grpc", ca_file = "/ca.pem""#,
        r#"usher.toml:24: service "web": check: ca_file: means nothing to a check of kind "grpc"; set kind = "grpcs", or remove it"#,
    ),
    (
        r#"kind = "http""#,
        r#"kind = "grpcs", grpc_service = "shop.Orders""#,
        r#"usher.toml:24: service "web": check: path: means nothing to a check of kind "grpcs"; set kind = "http", or remove it"#,
    ),
    (
        r#"kind = "http""#,
        r#"kind = "http", grpc_service = "shop.Orders""#,
        r#"usher.toml:24: service "web": check: grpc_service: means nothing to a check of kind "http"; set kind = "grpc", or remove it"#,
    ),
    (
        r#"kind = "http", path = "/healthz""#,
        r#"kind = "grpcs", verify = false, ca_file = "/ca.pem""#,
        r#"usher.toml:24: service "web": check: ca_file: means nothing with verify = false; set verify = true, or remove it"#,
    ),
    (
        r#"kind = "http""#,
        r#"kind = "tls""#,
        r#"usher.toml:24: service "web": check: path: means nothing to a check of kind "tls"; set kind = "http", or remove it"#,
    ),
    (
        r#"kind = "http""#,
        r#"kind = "https", verify = false, ca_file = "/ca.pem""#,
        r#"usher.toml:24: service "web": check: ca_file: means nothing with verify = false; set verify = true, or remove it"#,
    ),
    (
        r#"kind = "http""#,
        r#"kind = "https", ca_file = "ca.pem""#,
        r#"usher.toml:24: service "web": check: ca_file: "ca.pem" is not an absolute path; write the whole path, such as "/etc/usher/ca.pem""#,
    ),
    (
        r#"kind = "http""#,
        r#"kind = "https", server_name = "-w""#,
        r#"usher.toml:24: service "web": check: server_name: "-w" is not a name that a certificate can be for; write a host name or an address: "www.example.test""#,
    ),
    (
        r#"kind = "http", path = "/healthz""#,
        r#"kind = "udp""#,
        r#"usher.toml:24: service "web": check: send: is missing: servers do not answer to nothing; set send = "…" to what the backend answers"#,
    ),
    (
        r#"kind = "http""#,
        r#"kind = "udp", send = "ping""#,
        r#"usher.toml:24: service "web": check: path: means nothing to a check of kind "udp"; set kind = "http", or remove it"#,
    ),
    (
        r#"kind = "http""#,
        r#"kind = "http", send = "ping""#,
        r#"usher.toml:24: service "web": check: send: means nothing to a check of kind "http"; set kind = "udp", or remove it"#,
    ),
    (
        r#"kind = "http""#,
        r#"kind = "tcp""#,
        r#"usher.toml:24: service "web": check: path: means nothing to a check of kind "tcp"; set kind = "http", or remove it"#,
    ),
    (
        r#"path = "/healthz""#,
        r#"path = "healthz""#,
        r#"usher.toml:24: service "web": check: path: "healthz" does not begin with /; write it as in a URL after the host, such as "/healthz""#,
    ),
    (
        r#"path = "/healthz""#,
        r#"path = "/health z""#,
        r#"usher.toml:24: service "web": check: path: "/health z" has a space, a control character or one that is not ASCII; write it as in a URL after the host, such as "/healthz""#,
    ),
    (
        r#"interval = "1s""#,
        r#"interval = "1s", source = ["203.0.113.12", "203.0.113.13"]"#,
        r#"usher.toml:24: service "web": check: source: 203.0.113.13: is a second IPv4 address of checks; keep one per family"#,
    ),
    (
        r#"interval = "1s""#,
        r#"interval = "1s", source = "back""#,
        r#"usher.toml:24: service "web": check: source: back: is not an IP address; write one such as "192.0.2.11" or "2001:db8::11"; names are not looked up"#,
    ),
    (
        r#"interval = "1s""#,
        r#"method = "PUT""#,
        r#"usher.toml:24: service "web": check: method: "PUT" is not possible here; use "GET" or "HEAD" or "OPTIONS" or "POST""#,
    ),
    (
        r#"interval = "1s""#,
        r#"method = "HEAD", expect_body = "ready""#,
        r#"usher.toml:24: service "web": check: expect_body: never comes: an answer to HEAD has no body; use another method, or remove it"#,
    ),
    (
        r#"interval = "1s""#,
        r#"expect_body = """#,
        r#"usher.toml:24: service "web": check: expect_body: is empty, and every body contains that; remove it"#,
    ),
    (
        r#"interval = "1s""#,
        r#"headers = { Host = "www.example.test" }"#,
        r#"usher.toml:24: service "web": check: headers: Host: has a setting of its own; set host = "www.example.test" instead"#,
    ),
    (
        r#"interval = "1s""#,
        r#"headers = { "Content-Length" = "5" }"#,
        r#"usher.toml:24: service "web": check: headers: Content-Length: says how the request travels, which the check does itself; remove it"#,
    ),
    (
        r#"interval = "1s""#,
        r#"headers = { "X Probe" = "usher" }"#,
        r#"usher.toml:24: service "web": check: headers: X Probe: is not the name of a header; write one such as "X-Probe": letters, digits and "-""#,
    ),
    (
        r#"interval = "1s""#,
        r#"headers = { "X-Probe" = "a\r\nHost: b" }"#,
        r#"usher.toml:24: service "web": check: headers: X-Probe: has a value with a control character or one that is not ASCII; write letters, digits, spaces and punctuation only"#,
    ),
    (
        r#"interval = "1s""#,
        r#"headers = { "X-Probe" = 1 }"#,
        r#"usher.toml:24: service "web": check: headers: X-Probe: 1 is a whole number; write a table such as { "X-Probe" = "usher" }"#,
    ),
    (
        r#"interval = "1s""#,
        r#"expect_header = "ready""#,
        r#"usher.toml:24: service "web": check: expect_header: "ready" is a text; write a table such as { "X-State" = "ready" }"#,
    ),
    (
        r#"kind = "http", path = "/healthz""#,
        r#"kind = "tcp", headers = { "X-Probe" = "usher" }"#,
        r#"usher.toml:24: service "web": check: headers: means nothing to a check of kind "tcp"; set kind = "http", or remove it"#,
    ),
    (
        r#"interval = "1s""#,
        r#"passive = "down""#,
        r#"usher.toml:24: service "web": check: passive: "down" is not possible here; use "off" or "check" or "fail""#,
    ),
    (
        "port = 25\n",
        "port = 25\ncheck = { passive = \"check\" }\n",
        r#"usher.toml:38: service "mail": check: passive: is not possible under forward = "dsr-l2", where answers do not pass this node; remove it"#,
    ),
    (
        r#"check = { kind = "http", path = "/healthz", interval = "1s" }"#,
        r#"check = { passive = "fail" }
[[service.backend]]
name = "b0"
address = "203.0.113.20"
[[service]]
name = "echo"
protocol = "udp"
port = 7
check = { kind = "udp", send = "ping", passive = "check" }"#,
        r#"usher.toml:32: service "echo": check: passive: is not possible for UDP, which opens no connections; remove it"#,
    ),
    (
        r#"interval = "1s""#,
        r#"interval = "1s", fast_interval = "2s""#,
        r#"usher.toml:24: service "web": check: fast_interval: 2s is longer than the interval, 1s; use 1s or less, or remove it"#,
    ),
    (
        r#"interval = "1s""#,
        r#"interval = "1s", timeout = "2s""#,
        r#"usher.toml:24: service "web": check: timeout: 2s is longer than the interval, 1s; use 1s or less, or a longer interval"#,
    ),
    (
        r#"interval = "1s""#,
        r#"interval = "1""#,
        r#"usher.toml:24: service "web": check: interval: "1" is not a duration; write a number and its unit, such as "500ms", "2s", "5m" or "1h""#,
    ),
    (
        r#"interval = "1s""#,
        r#"interval = "1s", rise = 0"#,
        r#"usher.toml:24: service "web": check: rise: 0 is less than 1; use 1 to 1000 results in a row, such as 3"#,
    ),
    (
        r#"interval = "1s""#,
        r#"interval = "1s", fall = -1"#,
        r#"usher.toml:24: service "web": check: fall: -1 is less than 1; use 1 to 1000 results in a row, such as 3"#,
    ),
    (
        r#"interval = "1s""#,
        r#"interval = "1s", jitter = 0.6"#,
        r#"usher.toml:24: service "web": check: jitter: 0.6 is not a share from 0 to 0.5; use 0.1 to vary each interval by a tenth"#,
    ),
    (
        r#"interval = "1s""#,
        r#"interval = "1s", jitter = nan"#,
        r#"usher.toml:24: service "web": check: jitter: NaN is not a share from 0 to 0.5; use 0.1 to vary each interval by a tenth"#,
    ),
    (
        r#"interval = "1s""#,
        r#"interval = "1s", expect = "2xx""#,
        r#"usher.toml:24: service "web": check: expect: "2xx" is not an HTTP status from 100 to 599, nor a range of them; write "200", "200-399" or "200,204,300-302""#,
    ),
    (
        r#"interval = "1s""#,
        r#"interval = "1s", expect = "399-200""#,
        r#"usher.toml:24: service "web": check: expect: "399-200" is not an HTTP status from 100 to 599, nor a range of them; write "200", "200-399" or "200,204,300-302""#,
    ),
    (
        r#"interval = "1s""#,
        r#"interval = "1s", host = "www example""#,
        r#"usher.toml:24: service "web": check: host: "www example" is not a host; write a name or address, with a port if need be: "www.example.test""#,
    ),
    (
        r#"interval = "1s""#,
        r#"interval = "1s", port = 0"#,
        r#"usher.toml:24: service "web": check: port: 0 is less than 1; use a port from 1 to 65535"#,
    ),
    (
        r#"[[service.backend]]
name = "m1"
address = ["203.0.113.31", "2001:db8:2::31"]
"#,
        "",
        r#"usher.toml:34: service "mail": backend: is missing; write `[[service.backend]]`, in double brackets, above each backend's settings"#,
    ),
    (
        r#"name = "b2""#,
        r#"name = "b1""#,
        r#"usher.toml:31: service "web": backend "b1": name: "b1" is already the name of the backend in line 26; give each its own name"#,
    ),
    (
        "weight = 1",
        "weight = 70000",
        r#"usher.toml:29: service "web": backend "b1": weight: 70000 is more than 65535; use a share such as 1 or 100"#,
    ),
    (
        "weight = 1",
        "weight = -1",
        r#"usher.toml:29: service "web": backend "b1": weight: -1 is less than 0; use a share such as 1 or 100"#,
    ),
    (
        r#"weight = 1
[[service.backend]]
name = "b2"
"#,
        r#"weight = 0
[[service.backend]]
name = "b2"
weight = 0
"#,
        r#"usher.toml:18: service "web": has only backends of weight 0, so no flow can go anywhere; give one a weight of 1, or remove the service"#,
    ),
    (
        r#"weight = 1
[[service.backend]]
name = "b2"
address = ["203.0.113.22", "2001:db8:2::22"]"#,
        r#"weight = 0
[[service.backend]]
name = "b2"
address = ["203.0.113.22"]"#,
        r#"usher.toml:18: service "web": has only backends of weight 0 for IPv6; give one a weight of 1, or remove the service"#,
    ),
    (
        r#""203.0.113.22", "2001:db8:2::22""#,
        r#""203.0.113.22", "203.0.113.23""#,
        r#"usher.toml:32: service "web": backend "b2": address: 203.0.113.23: is a second IPv4 address of this backend; write a [[service.backend]] of its own for it"#,
    ),
    (
        r#""203.0.113.22""#,
        r#""203.0.113.21""#,
        r#"usher.toml:32: service "web": backend "b2": address: 203.0.113.21: is given twice, first in line 27; remove one of the two"#,
    ),
    (
        r#""203.0.113.22""#,
        r#""192.0.2.11""#,
        r#"usher.toml:32: service "web": backend "b2": address: 192.0.2.11: is this node itself; use the address of the server behind it; a node cannot balance to nodes"#,
    ),
    (
        r#""203.0.113.22""#,
        r#""203.0.113.11""#,
        r#"usher.toml:32: service "web": backend "b2": address: 203.0.113.11: is this node itself; use the address of the server behind it; a node cannot balance to nodes"#,
    ),
    (
        r#""203.0.113.22""#,
        r#""192.0.2.12""#,
        r#"usher.toml:32: service "web": backend "b2": address: 192.0.2.12: is peer "node2"; use the address of the server behind it; a node cannot balance to nodes"#,
    ),
    (
        r#""203.0.113.22""#,
        r#""::1""#,
        r#"usher.toml:32: service "web": backend "b2": address: ::1: is a loopback address; use an address that other hosts can reach
usher.toml:32: service "web": backend "b2": address: 2001:db8:2::22: is a second IPv6 address of this backend; write a [[service.backend]] of its own for it"#,
    ),
    (
        r#"address = ["203.0.113.22", "2001:db8:2::22"]
"#,
        "",
        r#"usher.toml:30: service "web": backend "b2": address: is missing; write an address in quotes, such as "203.0.113.21""#,
    ),
    (
        r#"address = ["203.0.113.22", "2001:db8:2::22"]"#,
        "address = []",
        r#"usher.toml:32: service "web": backend "b2": address: is an empty list; write an address in quotes, such as "203.0.113.21""#,
    ),
    (
        r#"name = "m1""#,
        r#"name = "m1"
port = 2525"#,
        r#"usher.toml:41: service "mail": backend "m1": port: 2525 differs from the service's port 25, and dsr-l2 cannot change ports; remove it and let the backend listen on 25, or use forward = "nat""#,
    ),
    (
        r#"name = "m1"
address = ["203.0.113.31", "2001:db8:2::31"]"#,
        r#"name = "m1"
address = "2001:db8:2::31"
[nat2]"#,
        "usher.toml:42: nat2: is not a known key; did you mean `nat`?",
    ),
    (
        r#"port = 80
forward = "nat"
check = { kind = "http", path = "/healthz", interval = "1s" }"#,
        r#"port = 0
forward = "na"
check = { kind = "http", path = "healthz", interval = "0s" }"#,
        r#"usher.toml:22: service "web": port: 0 is less than 1; use a port from 1 to 65535
usher.toml:23: service "web": forward: "na" is not possible here; did you mean "nat"?
usher.toml:24: service "web": check: path: "healthz" does not begin with /; write it as in a URL after the host, such as "/healthz"
usher.toml:24: service "web": check: interval: "0s" is less than 10ms; use 10ms to 1day"#,
    ),
];
