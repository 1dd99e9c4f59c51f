import msgspec

from streamworker import App


class Order(msgspec.Struct):
    id: int
    amount: float


app = App("billing")


@app.on("orders")
async def charge(order: Order) -> None:
    print(f"order {order.id}: charged {order.amount:.2f}")
