// Package cli is the commands that look after a gateway, over its admin API.
package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/caddymodule/admin"
)

// Endpoint is how the admin endpoint of a Caddy that runs is found and asked.
type Endpoint struct {
	// Address returns that of the endpoint, as given, or as in a config file that is
	// read by an adapter, or the usual one.
	Address func(given, config, adapter string) (string, error)
	// Request sends a request. An answer with a status above 299 is an error, whose text
	// has "caddy responded with error: HTTP", the status and the body.
	Request func(address, method, uri string, body io.Reader) (*http.Response, error)
}

// Commands are the commands over the admin API.
func Commands(endpoint Endpoint) []*cobra.Command {
	return []*cobra.Command{
		accountsCommand(endpoint), usersCommand(endpoint), keysCommand(endpoint), usageCommand(endpoint), recordsCommand(endpoint),
	}
}

// adminClient is how a command speaks to the admin API of a Caddy that runs.
type adminClient struct {
	endpoint                 Endpoint
	address, config, adapter string // as those of Caddy's own commands
	store                    string
	asJSON                   bool
}

// adminCommand makes a command that has what is common to those over the admin
// API, for itself and those below it.
func adminCommand(endpoint Endpoint, use, short string) (*cobra.Command, *adminClient) {
	cmd, c := &cobra.Command{Use: use, Short: short}, &adminClient{endpoint: endpoint}
	flags := cmd.PersistentFlags()
	flags.StringVar(&c.address, "address", "", "The address of Caddy's admin endpoint, if not the default")
	flags.StringVarP(&c.config, "config", "c", "", "The config file to find that address in, if --address is not used")
	flags.StringVarP(&c.adapter, "adapter", "a", "", "The adapter of that file, if it is not JSON")
	flags.StringVar(&c.store, "store", "", "The store, or a part of its name, where the config has several")
	flags.BoolVar(&c.asJSON, "json", false, "Print the answer of the admin API, for scripts")
	return cmd, c
}

// dateMeans is what a date of a flag stands for; the server reads it.
const dateMeans = "its midnight in the store's time zone"

// needsCommand makes a command that does nothing without one of those below it.
func needsCommand(cmd *cobra.Command) {
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
}

// call sends a request; body is nil for none. The answer is to be closed.
func (c *adminClient) call(method, path string, query url.Values, body any) (io.ReadCloser, error) {
	address, err := c.endpoint.Address(c.address, c.config, c.adapter)
	if err != nil {
		return nil, fmt.Errorf("finding the address of the admin endpoint: %w", err)
	}
	if query == nil {
		query = url.Values{}
	}
	if c.store != "" {
		query.Set("store", c.store)
	}
	uri := admin.Prefix + path
	if len(query) > 0 {
		uri += "?" + query.Encode()
	}
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(text)
	}
	response, err := c.endpoint.Request(address, method, uri, content)
	if err != nil {
		return nil, c.endpoint.adminError(address, err)
	}
	if err := ofAdminAPI(address, response); err != nil {
		response.Body.Close()
		return nil, err
	}
	return response.Body, nil
}

// ask sends a request and prints its answer, as it is or as print has it.
func ask[T any](cmd *cobra.Command, c *adminClient, method, path string, body any, print func(out io.Writer, answer T)) error {
	answer, err := c.call(method, path, nil, body)
	if err != nil {
		return err
	}
	defer answer.Close()
	if c.asJSON {
		return copyAnswer(cmd.OutOrStdout(), answer)
	}
	var decoded T
	if err := json.NewDecoder(answer).Decode(&decoded); err != nil {
		return answerCut(err)
	}
	print(cmd.OutOrStdout(), decoded)
	return nil
}

// copyAnswer prints an answer as it comes.
func copyAnswer(out io.Writer, answer io.Reader) error {
	if _, err := io.Copy(out, answer); err != nil {
		return answerCut(err)
	}
	return nil
}

func answerCut(err error) error {
	return fmt.Errorf("the answer was cut short, Caddy's log says why: %w", err)
}

// pathOf makes a path of the admin API of words and names.
func pathOf(parts ...string) string {
	for i, part := range parts {
		parts[i] = url.PathEscape(part)
	}
	return strings.Join(parts, "/")
}

// table aligns rows in columns. It holds what was written since the last Flush.
func table(out io.Writer, head ...string) *tabwriter.Writer {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	tableRow(t, head...)
	return t
}

func tableRow(t *tabwriter.Writer, cells ...string) {
	for i, cell := range cells {
		if cells[i] = printable(cell); cells[i] == "" {
			cells[i] = "-"
		}
	}
	fmt.Fprintln(t, strings.Join(cells, "\t"))
}

// printable keeps what others have chosen, such as a model's name, from moving a
// terminal's cursor.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}

func dollarsOr(none string, amount *billing.USD) string {
	if amount == nil {
		return none
	}
	return amount.Short()
}

func timeOr(none string, at *time.Time) string {
	if at == nil {
		return none
	}
	return at.Format(time.RFC3339)
}
