// Renders a chart with Helm's own engine, as `helm template` does: `helm CHART VALUES.yaml…` prints what would be applied.
package main

import (
	"fmt"
	"os"
	"sort"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
)

func render(folder string, files []string) (map[string]string, error) {
	chart, err := loader.Load(folder)
	if err != nil {
		return nil, err
	}
	values := chartutil.Values{}
	for _, file := range files {
		read, err := chartutil.ReadValuesFile(file)
		if err != nil {
			return nil, err
		}
		values = chartutil.MergeTables(read, values)
	}
	release := chartutil.ReleaseOptions{Name: "forwarder", Namespace: "default", IsInstall: true, Revision: 1}
	// Holds the values against values.schema.json, too.
	complete, err := chartutil.ToRenderValues(chart, values, release, chartutil.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	return engine.Render(chart, complete)
}

func main() {
	made, err := render(os.Args[1], os.Args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	names := make([]string, 0, len(made))
	for name := range made {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if strings.TrimSpace(made[name]) != "" {
			fmt.Printf("---\n%s\n", made[name])
		}
	}
}
