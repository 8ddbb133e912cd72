import { mount } from "svelte";
import App from "./App.svelte";
import "./app.css";
import { live } from "./state/live.svelte";

const target = document.getElementById("app");
if (!target) throw new Error("index.html has no #app");
live.connect();
mount(App, { target });
