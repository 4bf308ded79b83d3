"""The node's services: reset, pause, reload; and the parameter ``checkpoint``, which may be set while it runs."""

from rcl_interfaces.msg import SetParametersResult
from rclpy.task import Future
from std_srvs.srv import SetBool, Trigger

from gsrender_ros.predictor_host import check_file


class Services:
    """``~/reset`` and ``~/reload`` (std_srvs/Trigger), ``~/pause`` (std_srvs/SetBool).

    Args:
        node: owns the services; has ``reset()``, ``pause(bool)`` and ``load(path)``, which returns a
            ``concurrent.futures.Future``.
        checkpoint: the parameter's value.
    """

    def __init__(self, node, checkpoint: str):
        self._node = node
        self._checkpoint = checkpoint
        self._services = (
            node.create_service(Trigger, "~/reset", self._on_reset),
            node.create_service(SetBool, "~/pause", self._on_pause),
            node.create_service(Trigger, "~/reload", self._on_reload),
        )
        node.add_on_set_parameters_callback(self._on_parameters)

    def _on_reset(self, _, response):
        self._node.reset()
        response.success, response.message = True, "synchroniser, transforms, history and outputs cleared"
        return response

    def _on_pause(self, request, response):
        self._node.pause(request.data)
        response.success = True
        response.message = "paused: frames are dropped, and counted" if request.data else "running"
        return response

    async def _on_reload(self, _, response):
        # Awaited, not waited for: images go on arriving while the file is read.
        error = await self._finished(self._node.load(self._checkpoint))
        response.success = error is None
        response.message = f"loaded {self._node.host.path}" if error is None else f"the old one goes on: {error}"
        return response

    def _finished(self, loading) -> Future:
        """A future for the executor: the error of a ``concurrent.futures.Future``, or None."""
        future = Future(executor=self._node.executor)
        loading.add_done_callback(lambda done: future.set_result(done.exception()))
        return future

    def _on_parameters(self, parameters) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name != "checkpoint":
                continue
            try:
                check_file(parameter.value)
            except (FileNotFoundError, ValueError) as error:
                return SetParametersResult(successful=False, reason=str(error))
            self._checkpoint = parameter.value
            self._node.load(parameter.value)
        return SetParametersResult(successful=True)
