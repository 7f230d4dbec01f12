package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/spf13/cobra"

	"github.com/sub2api/caddy-sub2api/caddymodule/cli"
	"github.com/sub2api/caddy-sub2api/caddymodule/config"
	"github.com/sub2api/caddy-sub2api/caddymodule/gateway"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "sub2api",
		Usage: "demo|accounts|users|keys|usage|records",
		Short: "Runs a demo of the sub2api gateway, and looks after its accounts, users, keys and money",
		Long: `
Commands of the sub2api gateway.

"demo" starts a gateway and a simulated upstream on loopback, prints a curl line
that streams an answer, and leaves no files behind: those that it needs, and
those that Caddy writes, are in a directory of their own until it ends.

The others speak to the admin endpoint of the Caddy that runs.`,
		CobraFunc: addCommands,
	})
}

func addCommands(cmd *cobra.Command) {
	demo := &cobra.Command{
		Use:   "demo [--listen <addr>]",
		Short: "Starts a gateway in front of a simulated upstream",
		Args:  cobra.NoArgs,
		RunE:  caddycmd.WrapCommandFuncForCobra(runDemo),
	}
	demo.Flags().String("listen", demoListen, "The address to listen on")
	demo.Flags().Duration("pause", 50*time.Millisecond, "The pause between two events of a streamed answer")
	cmd.Args, cmd.RunE = cobra.NoArgs, func(cmd *cobra.Command, _ []string) error { return cmd.Help() } // by itself it does nothing
	cmd.AddCommand(demo)
	cmd.AddCommand(cli.Commands(adminEndpoint)...)
}

// adminEndpoint is that of the Caddy that runs, asked as Caddy's own commands do.
var adminEndpoint = cli.Endpoint{
	Address: func(given, config, adapter string) (string, error) {
		return caddycmd.DetermineAdminAPIAddress(given, nil, config, adapter)
	},
	Request: func(address, method, uri string, body io.Reader) (*http.Response, error) {
		return caddycmd.AdminAPIRequest(address, method, uri, nil, body)
	},
}

const (
	demoListen = "127.0.0.1:8080"
	demoKey    = "sk-demo"
	// demoEnd is how long the demo's store has to close.
	demoEnd = 5 * time.Second
)

// runDemo serves until it is interrupted.
func runDemo(flags caddycmd.Flags) (int, error) {
	listen := flags.String("listen")
	if probe, err := net.Listen("tcp", listen); err != nil {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("listening on %s: %w; choose another address with --listen", listen, err)
	} else {
		probe.Close()
	}
	upstream, err := simulator.Start(simulator.Config{Keep: -1})
	if err != nil {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("starting the simulated upstream: %w", err)
	}
	defer upstream.Close()
	upstream.Set("", simulator.Always(simulator.Reply{Pause: flags.Duration("pause")}))
	dir, err := os.MkdirTemp("", "sub2api-demo-")
	if err != nil {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("making a directory for the demo's files: %w", err)
	}
	// The store writes until it is closed, which is after its last request.
	end := func() error {
		err := caddy.Stop()
		closing, cancel := context.WithTimeout(context.Background(), demoEnd)
		defer cancel()
		gateway.WaitClosed(closing)
		return errors.Join(err, os.RemoveAll(dir))
	}
	defer func() { _ = end() }() // where it fails before it serves
	// Caddy writes files of its own into its data directory, as it finds it then.
	if err := os.Setenv("XDG_DATA_HOME", dir); err != nil {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("choosing a data directory: %w", err)
	}
	admin, usual, err := adminAddress()
	if err != nil {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("finding an address for the admin endpoint: %w", err)
	}
	// Caddy's own signal handling exits without running what is deferred here.
	stopped, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	caddy.OnExit(func(context.Context) { _ = end() })
	if err := caddy.Run(demoConfig(listen, admin, dir, upstream.URL)); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	fmt.Print(demoText(os.Args[0], listen, admin, usual))
	<-stopped.Done()
	return caddy.ExitCodeSuccess, end()
}

// adminAddress is Caddy's usual admin address, or a free one where that is
// taken.
func adminAddress() (address string, usual bool, err error) {
	listener, err := net.Listen("tcp", caddy.DefaultAdminListen)
	usual = err == nil
	if !usual {
		if listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return "", false, err
		}
	}
	defer listener.Close()
	return listener.Addr().String(), usual, nil
}

func demoConfig(listen, admin, dir, upstreamURL string) *caddy.Config {
	handler := config.Config{
		Store: &config.Store{Embedded: &config.EmbeddedStore{Dir: filepath.Join(dir, "store")}},
		Accounts: []config.Account{
			{Name: "first", APIKey: "sk-upstream-first", BaseURL: upstreamURL, Concurrency: 8},
			{Name: "second", APIKey: "sk-upstream-second", BaseURL: upstreamURL, Concurrency: 8},
		},
		Groups: []config.Group{{Name: "default"}},
		Users:  []config.User{{Name: "demo", Balance: "5", Keys: []config.Key{{Key: demoKey, Groups: []string{"default"}}}}},
	}
	notFound := caddyhttp.StaticResponse{StatusCode: "404", Body: "not found"}
	server := caddyhttp.Server{
		Listen:    []string{listen},
		AutoHTTPS: &caddyhttp.AutoHTTPSConfig{Disabled: true},
		Routes: caddyhttp.RouteList{
			{HandlersRaw: []json.RawMessage{
				caddyconfig.JSONModuleObject(handler, "handler", "sub2api", nil),
				caddyconfig.JSONModuleObject(notFound, "handler", "static_response", nil),
			}},
		},
	}
	app := caddyhttp.App{
		Servers:     map[string]*caddyhttp.Server{"demo": &server},
		GracePeriod: caddy.Duration(time.Second),
	}
	storage := map[string]string{"module": "file_system", "root": filepath.Join(dir, "caddy")}
	return &caddy.Config{
		StorageRaw: caddyconfig.JSON(storage, nil),
		Admin:      &caddy.AdminConfig{Listen: admin, Config: &caddy.ConfigSettings{Persist: new(false)}},
		Logging:    &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{Level: "WARN"}}}},
		AppsRaw:    caddy.ModuleMap{"http": caddyconfig.JSON(app, nil)},
	}
}

func demoText(program, listen, admin string, usual bool) string {
	host, port, _ := net.SplitHostPort(listen)
	if host == "" || host == "0.0.0.0" || host == "::" {
		host = "127.0.0.1"
	}
	url := "http://" + net.JoinHostPort(host, port)
	address := ""
	if !usual {
		address = " --address " + admin
	}
	return fmt.Sprintf(`The gateway is at %[1]s, with a simulated upstream and a user who has $5.

curl -N %[1]s/v1/messages -H 'x-api-key: %[2]s' -H 'anthropic-version: 2023-06-01' -H 'content-type: application/json' -d '{"model":"claude-sonnet-5-5","max_tokens":256,"stream":true,"messages":[{"role":"user","content":"Hello"}]}'

Claude Code: ANTHROPIC_BASE_URL=%[1]s ANTHROPIC_AUTH_TOKEN=%[2]s claude
Caddy's admin endpoint is at %[3]s. Users, keys and usage: %[5]s sub2api users%[4]s
Ctrl+C ends the demo.
`, url, demoKey, admin, address, typed(program))
}

// typed is what a person types to run this program again, of its path as it was started
// with.
func typed(program string) string {
	switch {
	case strings.Contains(filepath.ToSlash(program), "/go-build"): // of `go run`
		return "go run ./cmd/caddy"
	case strings.ContainsAny(program, " '"):
		return "'" + strings.ReplaceAll(program, "'", `'\''`) + "'"
	}
	return program
}
